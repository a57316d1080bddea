//! Hostile values against the real parsers: what is not refused means exactly itself.

use std::process::Command;

use hosting_agent_engine::ConfigLayout;
use hosting_nodeagent::render::{nginx, php};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
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
    for name in ["logs/nginx", "run/nginx/pages", "config", "run/php8.2"] {
        std::fs::create_dir_all(folder.path().join("web-1").join(name)).unwrap();
    }
    let main = nginx::main(&layout).unwrap();
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
        prop::option::of(mostly("8.2")),
        any::<bool>(),
    );
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    runner
        .run(&strategy, |(id, tenant, public_folder, shard, php, suspended)| {
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

#[test]
fn what_is_not_refused_is_one_pool_with_the_given_values() {
    if missing("what_is_not_refused_is_one_pool_with_the_given_values") {
        return;
    }
    let folder = folder();
    let layout = layout(folder.path(), "web-1");
    for name in ["web-1/logs/php-fpm", "web-1/run/php8.2", "web-1/logs/t_a"] {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    let main = php::main(&layout, "8.2").unwrap();
    let main_path = folder.path().join("main.conf");
    let part_path = folder.path().join("part.conf");
    let include = format!("\"{}\"", part_path.display());
    std::fs::write(&main_path, main.text.replace(ConfigLayout::INCLUDE, &include)).unwrap();

    let accepted = std::cell::Cell::new(0);
    let names = prop_oneof![
        Just("memory_limit".to_owned()),
        Just("date.timezone".to_owned()),
        Just("open_basedir".to_owned()),
        Just("Extension".to_owned()),
        word(),
    ];
    let strategy = (
        prop::collection::btree_map(names.clone(), word(), 0..3),
        prop::collection::btree_map(names, word(), 0..3),
    );
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    runner
        .run(&strategy, |(values, admin_values)| {
            let pool = php::Pool {
                id: "web_a".into(),
                tenant: "t_a".into(),
                version: "8.2".into(),
                processes: php::Processes {
                    max_children: 2,
                    start: 1,
                    min_spare: 1,
                    max_spare: 1,
                    max_requests: 0,
                },
                values,
                admin_values,
            };
            let Ok(rendered) = php::pool(&layout, &pool) else { return Ok(()) };
            accepted.set(accepted.get() + 1);
            std::fs::write(&part_path, &rendered.text).unwrap();
            // `-tt` prints what it understood.
            let output =
                Command::new("/usr/sbin/php-fpm8.2").args(["-tt", "-y"]).arg(&main_path).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            prop_assert!(output.status.success(), "{said}\n{}", rendered.text);
            prop_assert_eq!(said.matches("\tlisten = ").count(), 2, "{}", said);
            let basedir =
                format!("php_admin_value[open_basedir] = {}/\n", layout.roots.storage.join("t_a").display());
            prop_assert!(said.contains(&basedir), "{said}");
            prop_assert_eq!(said.matches("open_basedir").count(), 1, "{}", said);
            for (name, value) in &pool.values {
                let line = format!("php_value[{name}] = {}\n", if value.is_empty() { "" } else { value });
                prop_assert!(said.contains(&line), "{line:?} in {said}");
            }
            Ok(())
        })
        .unwrap();
    assert!(accepted.get() > 20, "the strategy made {} sound pools", accepted.get());
}

#[test]
fn forbidden_settings_are_refused_by_name() {
    let folder = folder();
    let layout = layout(folder.path(), "web-1");
    for name in [
        "open_basedir",
        "error_log",
        "slowlog",
        "disable_functions",
        "doc_root",
        "OPEN_BASEDIR",
        "extension",
        "zend_extension",
        "ffi.enable",
        "opcache.preload",
        "opcache.error_log",
        "OPcache.restrict_api",
        "xdebug.log",
        "enable_dl",
    ] {
        for admin in [true, false] {
            let values = std::collections::BTreeMap::from([(name.to_owned(), "x".to_owned())]);
            let (values, admin_values) =
                if admin { (Default::default(), values) } else { (values, Default::default()) };
            let pool = php::Pool {
                id: "web_a".into(),
                tenant: "t_a".into(),
                version: "8.2".into(),
                processes: php::Processes::from_intent(None).unwrap(),
                values,
                admin_values,
            };
            let error = php::pool(&layout, &pool).unwrap_err();
            assert!(error.what.contains(name), "{error}");
        }
    }
}

/// PHP holds no folder that the configuration names to `open_basedir`, and the script cache is one for all sites.
#[test]
fn sessions_and_the_script_cache_stay_the_sites_own() {
    let folder = folder();
    let layout = layout(folder.path(), "web-1");
    let render = |values: &[(&str, &str)], admin_values: &[(&str, &str)]| {
        let map = |of: &[(&str, &str)]| of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        php::pool(
            &layout,
            &php::Pool {
                id: "web_a".into(),
                tenant: "t_a".into(),
                version: "8.2".into(),
                processes: php::Processes::from_intent(None).unwrap(),
                values: map(values),
                admin_values: map(admin_values),
            },
        )
    };
    let plain = render(&[], &[]).unwrap().text;
    let own =
        format!("php_value[session.save_path] = \"{}\"\n", layout.roots.storage.join("t_a/tmp").display());
    assert!(plain.contains(&own), "{plain}");
    assert!(plain.contains("php_admin_value[opcache.restrict_api] = /nowhere\n"), "{plain}");
    assert!(plain.contains("php_admin_value[opcache.validate_permission] = 1\n"), "{plain}");
    for name in ["session.save_path", "Session.Save_Path"] {
        for path in ["/storage/t_b/tmp", "2;/storage/t_b/tmp", "../../t_b/tmp", "", "file://x"] {
            for error in [render(&[(name, path)], &[]), render(&[], &[(name, path)])] {
                assert!(error.unwrap_err().what.contains(name), "{path}");
            }
        }
    }
    let server = "tcp://10.0.0.1:6379?database=2";
    for text in [
        render(&[("session.save_path", server)], &[]).unwrap().text,
        render(&[], &[("session.save_path", server)]).unwrap().text,
    ] {
        assert_eq!((text.matches("save_path").count(), text.matches(server).count()), (1, 1), "{text}");
    }
}

#[test]
fn a_socket_path_that_does_not_fit_names_the_setting() {
    let folder = folder();
    let mut layout = layout(folder.path(), "web-1");
    layout.roots.run = format!("/{}", "run/".repeat(30)).into();
    let error = php::main(&layout, "8.2").unwrap_err();
    assert!(error.to_string().contains("--run-dir"), "{error}");
}
