//! Rules for what is served, the same on every runtime.

use crate::support::{Node, folder, layout, missing, php_webroot, static_webroot, upload};

#[tokio::test(flavor = "multi_thread")]
async fn source_and_copies_are_never_sent_on_any_runtime() {
    if missing("source_and_copies_are_never_sent_on_any_runtime") {
        return;
    }
    let folder = folder();
    let sites = [("web_s", static_webroot("t_a")), ("web_p", php_webroot("t_a"))];
    let node = Node::with_sites(layout(folder.path(), "web-1"), folder.path(), &sites).await;
    let names = [
        "a.php",
        "a.phtml",
        "a.phar",
        "a.php3",
        "a.php4",
        "a.php5",
        "a.php7",
        "a.php8",
        "a.php80",
        "a.pht",
        "a.phps",
        "a.PHP",
        "a.Php",
        "a.pHp5",
        "a.PHTML",
        "a.Phar",
        "a.inc",
        "a.INC",
        "a.class.inc",
        "a.php.bak",
        "a.php~",
        "a.php.swp",
        "a.php.orig",
        "a.php.save",
        "a.php.save.1",
        "a.php.old",
        "a.php.rej",
        ".a.php.swp",
        ".a.php.swo",
        "a.BAK",
        "a.bak2",
        "wp-config.php~",
        "wp-config.php.bak",
        "#a.php%23",
        "a.swn",
        "%61.phtml",
        "a%2ephtml",
        "a.ph%74ml",
        ".a.phtml",
    ];
    let decoded =
        |name: &str| name.replace("%23", "#").replace("%61", "a").replace("%2e", ".").replace("%74", "t");
    for site in ["web_s", "web_p"] {
        for name in names {
            for at in ["", "deep/er/", "a folder/"] {
                let path = node.document_root("t_a", site).join(at).join(decoded(name));
                upload(&path, "<?php /* SOURCE */ echo 'RAN';");
                let target = format!("/{at}{name}").replace(' ', "%20").replace("/#", "/%23");
                let answer = node.get(site, &target).await;
                assert!(!answer.body.contains("SOURCE"), "{site} {target}: {answer:?}");
                let runs = site == "web_p" && name == "a.php";
                assert_eq!(answer.body.contains("RAN"), runs, "{site} {target}: {answer:?}");
                if !runs {
                    assert_eq!(answer.status, 404, "{site} {target}");
                }
            }
        }
        // What only looks like it is sent as any file.
        for name in [
            "php.txt",
            "a.phpx",
            "a.sphp.html",
            "include",
            "bak",
            "a.php.html",
            "a.swpx",
            "inc.css",
            "save.1",
        ] {
            upload(&node.document_root("t_a", site).join(name), "CONTENT");
            assert_eq!(node.get(site, &format!("/{name}")).await.body, "CONTENT", "{site} {name}");
        }
    }
    // With a front controller such names are its own, as any other that is no file's.
    upload(
        &node.document_root("t_a", "web_p").join("index.php"),
        "<?php echo 'FRONT ', $_SERVER['REQUEST_URI'];",
    );
    for name in ["/a.phtml", "/deep/er/a.php5", "/route/x.inc?y=1"] {
        assert_eq!(node.get("web_p", name).await.body, format!("FRONT {name}"));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_reaches_the_application_and_only_reading_a_static_site() {
    if missing("every_method_reaches_the_application_and_only_reading_a_static_site") {
        return;
    }
    let folder = folder();
    let sites = [("web_s", static_webroot("t_a")), ("web_p", php_webroot("t_a"))];
    let node = Node::with_sites(layout(folder.path(), "web-1"), folder.path(), &sites).await;
    let root = node.document_root("t_a", "web_p");
    let app = "<?php echo 'APP ', $_SERVER['REQUEST_METHOD'], ' ', $_SERVER['SCRIPT_NAME'], ' ', $_SERVER['REQUEST_URI'], \
               ' ', $_SERVER['QUERY_STRING'];";
    upload(&root.join("index.php"), app);
    upload(&root.join("sub/index.php"), app);
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "PURGE"] {
        for (path, script) in [
            ("/", "/index.php"),
            ("/?a=1", "/index.php"),
            ("/sub/", "/sub/index.php"),
            ("/route", "/index.php"),
        ] {
            let body = if method == "GET" { "" } else { "x" };
            let answer = node.method(method, "web_p", path, body).await;
            let query = path.split_once('?').map_or("", |(_, query)| query);
            assert_eq!(answer.body, format!("APP {method} {script} {path} {query}"), "{answer:?}");
        }
    }
    upload(&node.document_root("t_a", "web_s").join("index.html"), "static");
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
        for path in ["/", "/index.html", "/nothing", "/sub/"] {
            let answer = node.method(method, "web_s", path, "x").await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.contains("Allow: GET, HEAD"), "{answer:?}");
        }
    }
    let head = node.method("HEAD", "web_s", "/", "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_an_index_is_a_route() {
    if missing("a_folder_without_an_index_is_a_route") {
        return;
    }
    let folder = folder();
    let sites = [("web_p", php_webroot("t_a"))];
    let node = Node::with_sites(layout(folder.path(), "web-1"), folder.path(), &sites).await;
    let root = node.document_root("t_a", "web_p");
    upload(&root.join("photos/a.txt"), "photo");
    upload(&root.join("docs/index.html"), "docs");
    upload(&root.join("what?/index.html"), "what");
    upload(&root.join("lines\r\nX-Evil: 1/index.html"), "lines");
    upload(&root.join("both/index.html"), "html first");
    upload(&root.join("both/index.php"), "<?php echo 'php';");
    // Without a front controller there is nothing to show.
    assert_eq!(node.get("web_p", "/photos/").await.status, 404);
    assert!(node.get("web_p", "/").await.body.contains("Nothing has been uploaded yet"));
    upload(
        &root.join("index.php"),
        "<?php echo 'APP ', $_SERVER['REQUEST_URI'], ' ', $_SERVER['QUERY_STRING'];",
    );
    for (path, body) in [
        ("/photos", "APP /photos "),
        ("/photos/", "APP /photos/ "),
        ("/photos/?a=b", "APP /photos/?a=b a=b"),
        ("/photos/none", "APP /photos/none "),
        ("/photos/a.txt", "photo"),
        ("/docs/", "docs"),
        ("/docs/?x", "docs"),
        ("/what%3F/", "what"),
        ("/both/", "html first"),
        ("/", "APP / "),
    ] {
        let answer = node.get("web_p", path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{path}");
    }
    for (path, location) in
        [("/docs", "/docs/"), ("/docs?x=1", "/docs/?x=1"), ("/what%3F", "/what%3F/"), ("//docs", "/docs/")]
    {
        let answer = node.get("web_p", path).await;
        assert!(answer.head.contains(&format!("Location: {location}\r\n")), "{path}: {}", answer.head);
    }
    let lines = node.get("web_p", "/lines%0D%0AX-Evil:%201").await;
    assert!(!lines.head.contains("\r\nX-Evil"), "{}", lines.head);
    // A start page in HTML is taken before the application.
    upload(&root.join("index.html"), "start page");
    assert_eq!(node.get("web_p", "/").await.body, "start page");
    assert_eq!(node.get("web_p", "/route").await.body, "APP /route ");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn header_fields_of_the_size_that_edges_take_are_taken() {
    if missing("header_fields_of_the_size_that_edges_take_are_taken") {
        return;
    }
    let folder = folder();
    let sites = [("web_s", static_webroot("t_a")), ("web_p", php_webroot("t_a"))];
    let node = Node::with_sites(layout(folder.path(), "web-1"), folder.path(), &sites).await;
    upload(&node.document_root("t_a", "web_s").join("a.txt"), "static");
    let root = node.document_root("t_a", "web_p");
    upload(
        &root.join("index.php"),
        "<?php echo strlen($_SERVER['HTTP_COOKIE'] ?? ''), ' ', strlen($_SERVER['QUERY_STRING']);",
    );
    upload(
        &root.join("answer.php"),
        "<?php for ($i = 0; $i < (int) $_GET['n']; $i++) header(\"X-$i: \" . str_repeat('v', 1000)); echo 'body';",
    );
    for kib in [4, 15, 31, 60] {
        let cookie = format!("Cookie: a={}\r\n", "v".repeat(kib * 1024));
        assert_eq!(node.ask("web_s", "/a.txt", &cookie).await.body, "static", "{kib} KiB");
        let answer = node.ask("web_p", "/", &cookie).await;
        assert_eq!(answer.body, format!("{} 0", kib * 1024 + 2), "{kib} KiB: {}", answer.head);
    }
    for kib in [4, 7, 15] {
        let query = "q".repeat(kib * 1024);
        assert_eq!(node.get("web_s", &format!("/a.txt?{query}")).await.body, "static", "{kib} KiB");
        assert_eq!(node.get("web_p", &format!("/?{query}")).await.body, format!("0 {}", kib * 1024));
    }
    // Many fields count like one.
    let many: String = (0..60).map(|n| format!("X-{n}: {}\r\n", "v".repeat(1000))).collect();
    assert_eq!(node.ask("web_s", "/a.txt", &many).await.body, "static");
    assert_eq!(node.ask("web_p", "/", &many).await.body, "0 0");
    // More than FastCGI takes is the request's fault, and said so.
    let cookie = format!("Cookie: a={}\r\n", "v".repeat(70 * 1024));
    assert_eq!(node.ask("web_p", "/", &cookie).await.status, 431);

    for n in [1, 7, 31, 60] {
        let answer = node.get("web_p", &format!("/answer.php?n={n}")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "body"), "{n} KB of answer header");
        assert!(answer.head.contains(&format!("X-{}: vvv", n - 1)));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_with_odd_names_work_end_to_end() {
    if missing("folders_with_odd_names_work_end_to_end") {
        return;
    }
    for name in ["a b", "it's; {#}", "\"q\" \\n [x]*?"] {
        let folder = folder();
        let base = folder.path().join(name);
        std::fs::create_dir(&base).unwrap();
        let sites = [("web_s", static_webroot("t_a")), ("web_p", php_webroot("t_a"))];
        let node = Node::with_sites(layout(&base, "w"), &base, &sites).await;
        upload(&node.document_root("t_a", "web_s").join("index.html"), "static");
        upload(
            &node.document_root("t_a", "web_p").join("index.php"),
            "<?php session_start(); echo __DIR__, ' ', file_put_contents(__DIR__ . '/x', 'x');",
        );
        assert_eq!(node.get("web_s", "/").await.body, "static", "{name}");
        let root = node.document_root("t_a", "web_p");
        assert_eq!(node.get("web_p", "/").await.body, format!("{} 1", root.display()), "{name}");
        node.stop().await;
    }
}
