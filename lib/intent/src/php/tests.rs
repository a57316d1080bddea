use super::*;

fn map(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn settings(of: &[(&str, &str)]) -> Result<Settings, String> {
    Settings::new(&map(of), &BTreeMap::new(), 0).map_err(|error| error.to_string())
}

#[test]
fn the_table_is_sorted_and_in_the_operators_page() {
    assert!(SETTINGS.is_sorted_by(|one, next| one.0 < next.0));
    let page = include_str!("../../../../docs/operators/php.md");
    for name in offered() {
        assert!(page.contains(&format!("`{name}`")), "{name} is not in docs/operators/php.md");
    }
    for (name, _) in SETTINGS.iter().filter(|(_, kind)| *kind == Platform) {
        assert!(!page.contains(&format!("`{name}`")), "docs/operators/php.md offers {name}");
    }
}

#[test]
fn values_have_a_type_and_one_normal_text() {
    for (name, given, kept) in [
        ("memory_limit", "256M", "256M"),
        ("memory_limit", " 268435456 ", "256M"),
        ("memory_limit", "1024m", "1G"),
        ("memory_limit", "2097153", "2097153"),
        ("max_input_time", "-1", "-1"),
        ("max_input_vars", "05000", "5000"),
        ("display_errors", "Off", "0"),
        ("display_errors", "STDERR", "stderr"),
        ("short_open_tag", "yes", "1"),
        ("output_buffering", "4096", "4K"),
        ("output_buffering", "On", "1"),
        ("error_reporting", "E_ALL & ~E_NOTICE", "E_ALL & ~E_NOTICE"),
        ("error_reporting", "32767", "32767"),
        ("date.timezone", "Europe/Berlin", "Europe/Berlin"),
        ("session.cookie_samesite", "lax", "Lax"),
        ("session.save_path", "var/sessions", "var/sessions"),
        ("auto_prepend_file", "waf.php", "waf.php"),
        ("user_agent", "Bob's agent", "Bob's agent"),
    ] {
        assert_eq!(normal(name, given).as_deref(), Ok(kept), "{name} = {given:?}");
    }
    for (name, given) in [
        ("memory_limit", "-1"),
        ("memory_limit", "64MB"),
        ("memory_limit", "1K"),
        ("memory_limit", "99999999999G"),
        ("memory_limit", "M"),
        ("memory_limit", "0x10"),
        ("memory_limit", "${PATH}"),
        ("post_max_size", "0"),
        ("max_execution_time", "1.5"),
        ("max_execution_time", "+5"),
        ("display_errors", "loud"),
        ("error_reporting", "system('id')"),
        ("date.timezone", "../../etc"),
        ("user_agent", "a\nb"),
        ("user_agent", "a\"b"),
        ("user_agent", "$pool"),
    ] {
        assert!(normal(name, given).is_err(), "{name} = {given:?}");
    }
}

#[test]
fn what_reaches_past_the_site_is_not_offered() {
    for name in [
        "open_basedir",
        "OPEN_BASEDIR",
        "Open_Basedir",
        "error_log",
        "slowlog",
        "disable_functions",
        "doc_root",
        "extension",
        "zend_extension",
        "ffi.enable",
        "ffi.preload",
        "opcache.preload",
        "opcache.file_cache",
        "opcache.restrict_api",
        "xdebug.log",
        "sqlite3.extension_dir",
        "browscap",
        "sendmail_path",
        "mail.log",
        "session.save_handler",
        "session.entropy_file",
        "session.referer_check",
        "soap.wsdl_cache_dir",
        "sys_temp_dir",
        "openssl.cafile",
        "curl.cainfo",
        "include_path",
        "user_ini.filename",
        "allow_url_include",
        "unserialize_callback_func",
        "output_handler",
        "memory_limit ",
        "",
        "a]b",
        "memory_limit]\nuser = root",
    ] {
        assert!(normal(name, "1").is_err(), "{name}");
        assert!(Settings::new(&BTreeMap::new(), &map(&[(name, "x")]), 0).is_err(), "{name}");
    }
}

#[test]
fn paths_stay_in_the_site() {
    for name in ["session.save_path", "auto_prepend_file", "auto_append_file"] {
        for path in [
            "",
            "/storage/t_b/tmp",
            "tcp://x;/storage/t_b/tmp",
            "tcp://10.0.0.1:6379",
            "2;/storage/t_b/tmp",
            "2;0600;/storage/t_b/tmp",
            ";/storage/t_b/tmp",
            "../t_b/tmp",
            "a/../../t_b/tmp",
            "a/..;/x",
            "file:///storage/t_b/tmp",
            "php://input",
            "a\0/../b",
            "~/x",
        ] {
            assert!(normal(name, path).is_err(), "{name} = {path:?}");
        }
        assert!(is_path(name));
    }
}

#[test]
fn limits_follow_from_each_other_and_work_by_themselves() {
    let limits = |of: &[(&str, &str)]| {
        let settings = settings(of).unwrap();
        (settings.upload_bytes() >> 20, settings.body_bytes() >> 20, settings.request_seconds())
    };
    assert_eq!(limits(&[]), (64, 72, 300));
    assert_eq!(limits(&[(UPLOAD, "100M")]), (100, 108, 300));
    assert_eq!(limits(&[(BODY, "20M")]), (20, 20, 300));
    assert_eq!(limits(&[(UPLOAD, "64M"), (BODY, "64M")]), (64, 64, 300));
    let error = settings(&[(UPLOAD, "64M"), (BODY, "8M")]).unwrap_err();
    assert!(error.starts_with("php_values.post_max_size: must be at least upload_max_filesize"), "{error}");
    let error = settings(&[(EXECUTION, "301")]).unwrap_err();
    assert!(
        error.starts_with("php_values.max_execution_time: must be at most request_seconds (300)"),
        "{error}"
    );
    assert!(Settings::new(&map(&[(MEMORY, "1G")]), &map(&[(MEMORY, "1G")]), 0).is_err());
    assert!(Settings::new(&BTreeMap::new(), &BTreeMap::new(), REQUEST_SECONDS_MOST + 1).is_err());
}

#[test]
fn what_is_above_a_bound_is_told_with_it() {
    let bounds = Bounds::default();
    let above = |of: &[(&str, &str)], seconds: u32| {
        let settings = Settings::new(&BTreeMap::new(), &map(of), seconds).unwrap();
        settings.within(&bounds).map_err(|error| error.to_string())
    };
    assert!(above(&[(UPLOAD, "512M"), (MEMORY, "2G"), (EXECUTION, "300")], 300).is_ok());
    for (name, text, bound) in
        [(UPLOAD, "513M", "512M"), (BODY, "1G", "512M"), (MEMORY, "3G", "2G"), (INPUT, "301", "300 seconds")]
    {
        let error = above(&[(name, text)], 0).unwrap_err();
        assert!(error.starts_with(&format!("php_admin_values.{name}: ")), "{error}");
        assert!(error.contains(&format!("at most {bound};")), "{error}");
    }
    assert!(above(&[], 301).unwrap_err().starts_with("request_seconds: "));
    assert!(above(&[(EXECUTION, "400")], 400).is_err());
    // A default is never above a bound.
    let tight = Bounds { upload_bytes: 10 << 20, request_seconds: 60, ..bounds };
    let held = settings(&[]).unwrap().within(&tight).unwrap();
    assert_eq!((held.upload_bytes(), held.request_seconds()), (10 << 20, 60));
}

#[test]
fn versions() {
    for good in ["8.2", "10.12"] {
        assert_eq!(check_version(good), Ok(()));
    }
    for bad in ["", "8", "8.", ".2", "8.2.1", "8.x", "../8.2", "800.1"] {
        assert!(check_version(bad).is_err(), "{bad}");
    }
}
