//! Hostile values against the real parsers: what is not refused means exactly itself.

use std::{collections::BTreeMap, process::Command};

use hosting_agent_engine::ConfigLayout;
use hosting_intent::php::{Processes, Settings};
use hosting_nodeagent::web::render::{nginx, php};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::support::{folder, layout, missing};

const HOSTILE: &[&str] = &[
    "",
    ".",
    "..",
    "a;b",
    "a\nb",
    "a\rb",
    "a\"b",
    "a'b",
    "a\\b",
    "a{b",
    "a}b",
    "a#b",
    "a$b",
    "${a}",
    "$uri",
    "a b",
    "a\0b",
    "a/b",
    "../../etc",
    "*",
    "~",
    "_",
    "-",
    "--",
    "web_a",
    "A",
    "0",
    "é",
    "a%b",
    "a`b",
    "a(b)",
    "[a]",
    "a=b",
    "a,b",
    "; include /etc/passwd;",
    "\"; root /; #",
    "a]\nuser = root\n[b",
    "-R",
    "..hidden",
    ".hidden",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(HOSTILE).prop_map(str::to_owned),
        "[a-z_A-Z0-9.-]{1,20}",
        "\\PC{0,12}",
        prop::collection::vec(any::<char>(), 0..8).prop_map(|chars| chars.into_iter().collect()),
    ]
}

/// Mostly sound, so that one hostile value at a time gets far.
fn mostly(sound: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![3 => Just(sound.to_owned()), 1 => word()]
}

#[test]
fn what_is_not_refused_is_one_server_block_that_nginx_accepts() {
    if missing("what_is_not_refused_is_one_server_block_that_nginx_accepts") {
        return;
    }
    let folder = folder();
    let layout = layout(folder.path(), "web-1");
    for name in ["logs/nginx", "run/nginx/pages", "temp/nginx", "config", "run/php"] {
        std::fs::create_dir_all(folder.path().join("web-1").join(name)).unwrap();
    }
    let main = nginx::main(&layout, None).unwrap();
    let main_path = folder.path().join("main.conf");
    let part_path = folder.path().join("part.conf");
    let include = format!("\"{}\"", part_path.display());
    std::fs::write(&main_path, main.text.replace(ConfigLayout::INCLUDE, &include)).unwrap();

    let accepted = std::cell::Cell::new(0);
    let strategy = (
        mostly("web_a"),
        mostly("t_a"),
        prop::collection::vec(mostly("public"), 0..3),
        mostly("shard-1"),
        any::<bool>(),
        any::<bool>(),
    );
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    runner
        .run(&strategy, |(id, tenant, public_folder, shard, php, suspended)| {
            let php = php.then(|| nginx::Php { settings: Settings::default() });
            let site = nginx::Site { id, tenant, public_folder, shard, php, suspended };
            let Ok(rendered) = nginx::site(&layout, &site) else { return Ok(()) };
            accepted.set(accepted.get() + 1);
            // One block, whose names are the given ones and nothing else.
            prop_assert_eq!(rendered.text.matches("server {").count(), 1);
            let name = format!("\n  server_name {};\n", site.id);
            prop_assert!(rendered.text.contains(&name));
            prop_assert_eq!(rendered.text.matches("server_name ").count(), 1);
            prop_assert_eq!(rendered.text.matches("\n  root ").count(), 1);
            std::fs::write(&part_path, &rendered.text).unwrap();
            let output = Command::new("/usr/sbin/nginx")
                .args(["-t", "-q", "-e", "stderr", "-c"])
                .arg(&main_path)
                .output()
                .unwrap();
            prop_assert!(
                output.status.success(),
                "{}\n{}",
                String::from_utf8_lossy(&output.stderr),
                rendered.text
            );
            Ok(())
        })
        .unwrap();
    assert!(accepted.get() > 50, "the strategy made {} sound sites", accepted.get());
}

fn pool(values: BTreeMap<String, String>, admin_values: BTreeMap<String, String>) -> Option<php::Pool> {
    Some(php::Pool {
        id: "web_a".into(),
        tenant: "t_a".into(),
        version: "8.2".into(),
        processes: Processes::default(),
        settings: Settings::new(&values, &admin_values, 0).ok()?,
        env: BTreeMap::new(),
    })
}

/// What php-fpm says that it understood of a configuration.
fn understood(folder: &std::path::Path, master: &php::Master) -> Result<String, String> {
    let path = folder.join("master.conf");
    // `-tt` prints what it understood, as notices.
    std::fs::write(&path, master.text.replace("log_level = warning", "log_level = notice")).unwrap();
    let output = Command::new("/usr/sbin/php-fpm8.2").args(["-tt", "-y"]).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(said) } else { Err(format!("{said}\n{}", master.text)) }
}

/// Names of folders as an operator may have them.
fn folder_name() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec![
        " ", "'", "\"", "\\", ";", "{", "}", "#", "%", "*", "?", "[", "]", "[a-z]", "~", "é", "日", "(", ")",
        "&", "|", "\\n", "\\\"", "@", "=", ":", ",", "!", "`", "<", ">", "$", "\n", "${a}",
    ]);
    prop::collection::vec(prop_oneof![odd.prop_map(str::to_owned), "[a-z]{1,3}"], 1..6)
        .prop_map(|parts| parts.concat())
        .prop_filter("a name", |name| name != "." && name != "..")
}

/// nginx makes the folders and opens the logs that it was told, so what it understood can be seen on disk.
#[test]
fn a_path_arrives_as_it_is_or_is_refused() {
    if missing("a_path_arrives_as_it_is_or_is_refused") {
        return;
    }
    let accepted = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    runner
        .run(&folder_name(), |name| {
            let folder = folder();
            let base = folder.path().join(&name);
            let layout = layout(&base, "web-1");
            let refused = name.contains(['$', '\n']);
            let Ok(main) = nginx::main(&layout, None) else {
                prop_assert!(refused, "{name:?} is refused");
                return Ok(());
            };
            prop_assert!(!refused, "{name:?} is not refused");
            accepted.set(accepted.get() + 1);
            let roots = &layout.roots;
            let sites = roots.config.join("nginx/sites");
            for folder in [
                roots.logs.join("nginx"),
                roots.run.join("nginx/pages"),
                roots.temp.join("nginx"),
                sites.clone(),
            ] {
                std::fs::create_dir_all(folder).unwrap();
            }
            let site = nginx::Site {
                id: "web_a".into(),
                tenant: "t_a".into(),
                public_folder: vec![],
                shard: "shard-1".into(),
                php: Some(nginx::Php {
                    settings: Settings::new(&BTreeMap::new(), &BTreeMap::new(), 0).unwrap(),
                }),
                suspended: false,
            };
            let config = ConfigLayout {
                main: hosting_agent_engine::Place::new(
                    hosting_agent_engine::Root::Config,
                    ["nginx", "nginx.conf"],
                ),
                parts: Some(hosting_agent_engine::Place::new(
                    hosting_agent_engine::Root::Config,
                    ["nginx", "sites"],
                )),
                suffix: ".conf".into(),
                text: main.text,
            };
            std::fs::write(sites.join("web_a.conf"), nginx::site(&layout, &site).unwrap().text).unwrap();
            let path = roots.config.join("nginx/nginx.conf");
            for piece in ["*.conf", "web_a.conf"] {
                std::fs::write(&path, config.text_with(sites.to_str().unwrap(), piece)).unwrap();
                // `-T` prints every file that was read.
                let output = Command::new("/usr/sbin/nginx")
                    .args(["-T", "-e", "stderr", "-c"])
                    .arg(&path)
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                prop_assert!(
                    output.status.success(),
                    "{name:?}: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
                prop_assert!(
                    said.contains("server_name web_a;"),
                    "{name:?}, {piece}: the sites are not included"
                );
            }
            for made in [
                roots.logs.join("nginx/access.log"),
                roots.logs.join("nginx/error.log"),
                roots.temp.join("nginx/body"),
                roots.temp.join("nginx/fastcgi"),
                roots.run.join("nginx/nginx.pid"),
            ] {
                prop_assert!(made.exists(), "{name:?}: no {made:?}");
            }
            Ok(())
        })
        .unwrap();
    assert!(accepted.get() > 50, "the strategy made {} sound paths", accepted.get());
}

#[test]
fn what_is_not_refused_is_one_master_with_the_given_values() {
    if missing("what_is_not_refused_is_one_master_with_the_given_values") {
        return;
    }
    let folder = folder();
    let layout = layout(folder.path(), "web-1");
    for name in ["run/php", "logs/t_a"] {
        std::fs::create_dir_all(folder.path().join("web-1").join(name)).unwrap();
    }
    let accepted = std::cell::Cell::new(0);
    let names = prop_oneof![
        Just("memory_limit".to_owned()),
        Just("date.timezone".to_owned()),
        Just("user_agent".to_owned()),
        Just("auto_prepend_file".to_owned()),
        Just("open_basedir".to_owned()),
        word(),
    ];
    let values = prop_oneof![word(), Just("64M".to_owned()), Just("Europe/Berlin".to_owned())];
    let strategy = (
        prop::collection::btree_map(names.clone(), values.clone(), 0..3),
        prop::collection::btree_map(names, values, 0..3),
    );
    let mut runner = TestRunner::new(Config { cases: 600, failure_persistence: None, ..Config::default() });
    runner
        .run(&strategy, |(values, admin_values)| {
            let Some(pool) = pool(values, admin_values) else { return Ok(()) };
            let master = php::master(&layout, &pool).unwrap();
            accepted.set(accepted.get() + 1);
            let said = understood(folder.path(), &master).map_err(TestCaseError::fail)?;
            prop_assert_eq!(said.matches("\tlisten = ").count(), 1, "{}", said);
            let basedir =
                format!("php_admin_value[open_basedir] = {}/\n", layout.roots.storage.join("t_a").display());
            prop_assert!(said.contains(&basedir), "{said}");
            prop_assert_eq!(said.matches("open_basedir").count(), 1, "{}", said);
            for (name, value) in pool.settings.values() {
                let value = match name.as_str() {
                    "auto_prepend_file" => {
                        layout.roots.storage.join("t_a/webroots/web_a").join(value).display().to_string()
                    }
                    _ => value.clone(),
                };
                let line = format!("php_value[{name}] = {value}\n");
                prop_assert!(said.contains(&line), "{line:?} in {said}");
            }
            Ok(())
        })
        .unwrap();
    assert!(accepted.get() > 20, "the strategy made {} sound pools", accepted.get());
}

#[test]
fn folders_with_odd_names_mean_themselves_to_php() {
    if missing("folders_with_odd_names_mean_themselves_to_php") {
        return;
    }
    let folder = folder();
    let pool = pool(BTreeMap::new(), BTreeMap::new()).unwrap();
    let odd = [
        "a b", "a'b", "a\"b", "a$b", "${HOME}", "a;b", "a#b", "a\\b", "a{b}", "[a]", "a=b", "ä", "a%b",
        "a,b", "a`b", "a\\'b", "a'\"b", "$pool", "a:b", "a\nb", "(a)", "a|b&c", "~", "^", "!", "yes", "null",
        "E_ALL",
    ];
    let mut rendered = 0;
    for name in odd {
        let top = folder.path().join(name);
        let layout = layout(&top, "w");
        for name in ["run/php", "logs/t_a"] {
            std::fs::create_dir_all(top.join("w").join(name)).unwrap();
        }
        let Ok(master) = php::master(&layout, &pool) else { continue };
        rendered += 1;
        let said = understood(&top, &master).unwrap_or_else(|why| panic!("{name:?}: {why}"));
        for wanted in [
            format!("\tlisten = {}\n", layout.roots.text(&php::socket(&master.name))),
            format!("\tslowlog = {}\n", layout.roots.logs.join("t_a/php-slow.log").display()),
            format!("\terror_log = {}\n", layout.roots.logs.join("t_a/php-fpm-web_a.log").display()),
            format!("php_admin_value[open_basedir] = {}/\n", layout.roots.storage.join("t_a").display()),
            format!("php_value[session.save_path] = {}\n", layout.roots.storage.join("t_a/tmp").display()),
        ] {
            assert!(said.contains(&wanted), "{name:?}: {wanted:?} in {said}");
        }
    }
    assert!(rendered >= odd.len() - 5, "{rendered} of {}", odd.len());
}

/// PHP holds no folder that the configuration names to `open_basedir`.
#[test]
fn sessions_stay_the_sites_own() {
    let folder = folder();
    let layout = layout(folder.path(), "web-1");
    let one = |path: &str| BTreeMap::from([("session.save_path".to_owned(), path.to_owned())]);
    let plain = php::master(&layout, &pool(BTreeMap::new(), BTreeMap::new()).unwrap()).unwrap().text;
    let own = |path: &str| format!("[session.save_path] = '{}'\n", layout.roots.storage.join(path).display());
    assert!(plain.contains(&own("t_a/tmp")), "{plain}");
    for path in [
        "/storage/t_b/tmp",
        "2;/storage/t_b/tmp",
        "../../t_b/tmp",
        "",
        "file://x",
        "tcp://x;/storage/t_b/tmp",
        "tls://x;/storage/t_b/tmp",
    ] {
        assert!(
            pool(one(path), BTreeMap::new()).is_none() && pool(BTreeMap::new(), one(path)).is_none(),
            "{path}"
        );
    }
    for pool in [pool(one("var/s"), BTreeMap::new()).unwrap(), pool(BTreeMap::new(), one("var/s")).unwrap()] {
        let text = php::master(&layout, &pool).unwrap().text;
        assert!(text.contains(&own("t_a/webroots/web_a/var/s")), "{text}");
        assert_eq!(text.matches("save_path").count(), 1, "{text}");
    }
}

#[test]
fn a_socket_path_that_does_not_fit_names_the_setting() {
    let folder = folder();
    let mut layout = layout(folder.path(), "web-1");
    layout.roots.run = format!("/{}", "run/".repeat(30)).into();
    let error = php::master(&layout, &pool(BTreeMap::new(), BTreeMap::new()).unwrap()).unwrap_err();
    assert!(error.to_string().contains("--run-dir"), "{error}");
}
