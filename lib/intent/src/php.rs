//! What a PHP site may set.
//!
//! Owns the one table of php.ini settings that sites may have, with the type of each, the limits of a request that follow
//! from them, and the numbers of a pool's processes. The API refuses by it and nodes render from it. A setting that is not in the table does not exist for
//! sites: it could load code, write where it says or reach into another site.

mod processes;

use std::{collections::BTreeMap, fmt};

use crate::{folder, message as m};

pub use processes::{ProcessNumbers, Processes, Waiting};

/// The type of a setting, from which its normal text follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    /// The platform sets it itself.
    Platform,
    /// `0` or `1`; taken as on, off, yes, no, true, false too.
    Flag,
    /// A whole number in a range.
    Whole(i64, i64),
    /// Whole seconds in a range.
    Seconds(i64, i64),
    /// Bytes in a range; taken with K, M or G (2^10, 2^20, 2^30), kept with the largest of them that leaves no rest.
    Bytes(i64, i64),
    /// One of some words.
    Word(&'static [&'static str]),
    /// A flag, or a number of bytes.
    FlagOrBytes,
    /// Text that means itself in a quoted value of an INI file, at most so many bytes.
    Text(usize),
    /// A name of the IANA time zone database.
    TimeZone,
    /// An expression over `E_` constants, or a number.
    ErrorLevels,
    /// A file or folder of the site's own, relative to its webroot; nodes make the path absolute.
    PathInSite,
}

use Type::{
    Bytes, ErrorLevels, Flag, FlagOrBytes, PathInSite, Platform, Seconds, Text, TimeZone, Whole, Word,
};

const KIB: i64 = 1 << 10;
const MIB: i64 = 1 << 20;
const GIB: i64 = 1 << 30;
const YEAR: i64 = 366 * 86_400;

const MEMORY: &str = "memory_limit";
const UPLOAD: &str = "upload_max_filesize";
const BODY: &str = "post_max_size";
const EXECUTION: &str = "max_execution_time";
const INPUT: &str = "max_input_time";

/// Every setting that is known here, in ascending order of the name.
const SETTINGS: &[(&str, Type)] = &[
    ("allow_url_fopen", Flag),
    ("arg_separator.output", Text(16)),
    ("assert.active", Flag),
    ("assert.exception", Flag),
    ("auto_append_file", PathInSite),
    ("auto_prepend_file", PathInSite),
    ("bcmath.scale", Whole(0, 10_000)),
    ("browscap", Platform),
    ("date.timezone", TimeZone),
    ("default_charset", Text(64)),
    ("default_mimetype", Text(128)),
    ("default_socket_timeout", Seconds(1, 3_600)),
    ("disable_classes", Platform),
    ("disable_functions", Platform),
    ("display_errors", Word(&["0", "1", "stderr", "stdout"])),
    ("display_startup_errors", Flag),
    ("doc_root", Platform),
    ("enable_dl", Platform),
    ("error_append_string", Text(255)),
    ("error_log", Platform),
    ("error_prepend_string", Text(255)),
    ("error_reporting", ErrorLevels),
    ("expose_php", Platform),
    ("extension", Platform),
    ("extension_dir", Platform),
    ("file_uploads", Flag),
    ("gd.jpeg_ignore_warning", Flag),
    ("html_errors", Flag),
    ("iconv.input_encoding", Text(64)),
    ("iconv.internal_encoding", Text(64)),
    ("iconv.output_encoding", Text(64)),
    ("ignore_repeated_errors", Flag),
    ("ignore_repeated_source", Flag),
    ("ignore_user_abort", Flag),
    ("implicit_flush", Flag),
    ("input_encoding", Text(64)),
    ("internal_encoding", Text(64)),
    ("intl.default_locale", Text(64)),
    ("intl.error_level", ErrorLevels),
    ("intl.use_exceptions", Flag),
    ("log_errors", Platform),
    ("mail.add_x_header", Flag),
    ("mail.log", Platform),
    ("max_execution_time", Seconds(0, 86_400)),
    ("max_file_uploads", Whole(0, 1_000)),
    ("max_input_nesting_level", Whole(1, 1_024)),
    ("max_input_time", Seconds(-1, 86_400)),
    ("max_input_vars", Whole(1, 1_000_000)),
    ("mbstring.detect_order", Text(255)),
    ("mbstring.encoding_translation", Flag),
    ("mbstring.http_input", Text(64)),
    ("mbstring.http_output", Text(64)),
    ("mbstring.internal_encoding", Text(64)),
    ("mbstring.language", Text(64)),
    ("mbstring.strict_detection", Flag),
    ("mbstring.substitute_character", Text(16)),
    ("memory_limit", Bytes(2 * MIB, 64 * GIB)),
    ("mysqlnd.net_read_timeout", Seconds(1, 86_400)),
    ("opcache.enable", Flag),
    ("opcache.restrict_api", Platform),
    ("opcache.revalidate_freq", Seconds(0, 86_400)),
    ("opcache.revalidate_path", Flag),
    ("opcache.save_comments", Flag),
    ("opcache.validate_timestamps", Flag),
    ("open_basedir", Platform),
    ("output_buffering", FlagOrBytes),
    ("output_encoding", Text(64)),
    ("pcre.backtrack_limit", Whole(1, 1_000_000_000)),
    ("pcre.jit", Flag),
    ("pcre.recursion_limit", Whole(1, 1_000_000_000)),
    ("post_max_size", Bytes(KIB, 64 * GIB)),
    ("precision", Whole(-1, 40)),
    ("realpath_cache_size", Platform),
    ("realpath_cache_ttl", Platform),
    ("register_argc_argv", Flag),
    ("request_order", Text(5)),
    ("sendmail_path", Platform),
    ("serialize_precision", Whole(-1, 100)),
    ("session.auto_start", Flag),
    ("session.cache_expire", Whole(0, 1_000_000)),
    ("session.cache_limiter", Word(&["", "nocache", "private", "private_no_expire", "public"])),
    ("session.cookie_domain", Text(255)),
    ("session.cookie_httponly", Flag),
    ("session.cookie_lifetime", Seconds(0, 10 * YEAR)),
    ("session.cookie_path", Text(255)),
    ("session.cookie_samesite", Word(&["", "Lax", "None", "Strict"])),
    ("session.cookie_secure", Flag),
    ("session.gc_divisor", Whole(1, 1_000_000)),
    ("session.gc_maxlifetime", Seconds(1, 10 * YEAR)),
    ("session.gc_probability", Whole(0, 1_000_000)),
    ("session.lazy_write", Flag),
    ("session.name", Text(64)),
    ("session.save_path", PathInSite),
    ("session.serialize_handler", Word(&["php", "php_binary", "php_serialize"])),
    ("session.sid_bits_per_character", Whole(4, 6)),
    ("session.sid_length", Whole(22, 256)),
    ("session.upload_progress.cleanup", Flag),
    ("session.upload_progress.enabled", Flag),
    ("session.use_cookies", Flag),
    ("session.use_only_cookies", Flag),
    ("session.use_strict_mode", Flag),
    ("session.use_trans_sid", Flag),
    ("short_open_tag", Flag),
    ("slowlog", Platform),
    ("soap.wsdl_cache_dir", Platform),
    ("soap.wsdl_cache_enabled", Flag),
    ("soap.wsdl_cache_ttl", Seconds(0, YEAR)),
    ("sqlite3.extension_dir", Platform),
    ("sys_temp_dir", Platform),
    ("upload_max_filesize", Bytes(KIB, 64 * GIB)),
    ("upload_tmp_dir", Platform),
    ("url_rewriter.tags", Text(255)),
    ("user_agent", Text(255)),
    ("user_dir", Platform),
    ("variables_order", Text(5)),
    ("zend.assertions", Whole(-1, 1)),
    ("zend.exception_ignore_args", Flag),
    ("zend.exception_string_param_max_len", Whole(0, 1_000_000)),
    ("zend_extension", Platform),
    ("zlib.output_compression", FlagOrBytes),
    ("zlib.output_compression_level", Whole(-1, 9)),
];

/// Families of settings that are the platform's where the table has no line for one of them.
const FAMILIES: &[&str] = &["ffi.", "opcache.", "xdebug."];

/// Longest value, in bytes.
const TEXT_MOST: usize = 1024;

/// Most settings of one map.
const MOST_SETTINGS: usize = 100;

/// Upload that works where a site says nothing, in bytes.
const UPLOAD_DEFAULT: u64 = 64 << 20;

/// What a form holds beside its largest file, in bytes, where a site does not say.
const FORM_BYTES: u64 = 8 << 20;

/// Longest request where a site says nothing, in seconds: what edges wait for an answer.
pub const REQUEST_SECONDS: u32 = 300;

/// Longest request that any site may have, in seconds.
pub const REQUEST_SECONDS_MOST: u32 = 86_400;

/// What an operator allows sites at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Of `upload_max_filesize` and `post_max_size`, in bytes.
    pub upload_bytes: u64,
    /// Of a request, in seconds: `request_seconds`, `max_execution_time`, `max_input_time`.
    pub request_seconds: u32,
    /// Of `memory_limit`, in bytes.
    pub memory_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { upload_bytes: 512 << 20, request_seconds: REQUEST_SECONDS, memory_bytes: 2 << 30 }
    }
}

/// A setting that a site cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// Below `runtime_config`, as users write it: `php_values.memory_limit`.
    pub field: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// The fields of `runtime_config` that settings stand in.
const VALUES: &str = "php_values";
const ADMIN_VALUES: &str = "php_admin_values";

/// Settings of one site, each known and in its normal text, and the limits that follow from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<String, String>,
    admin_values: BTreeMap<String, String>,
    /// 0: nothing was said.
    request_seconds: u32,
}

impl Settings {
    /// Checks settings and brings them into their normal text. `request_seconds` 0 means the default.
    ///
    /// # Errors
    /// The first setting that a site cannot have, or that contradicts another.
    pub fn new(
        values: &BTreeMap<String, String>,
        admin_values: &BTreeMap<String, String>,
        request_seconds: u32,
    ) -> Result<Self, Problem> {
        let all = |field: &str, given: &BTreeMap<String, String>| {
            if given.len() > MOST_SETTINGS {
                return Err(problem(field, format!("at most {MOST_SETTINGS} settings")));
            }
            given
                .iter()
                .map(|(name, text)| match normal(name, text) {
                    Ok(text) => Ok((name.clone(), text)),
                    Err(why) => Err(problem(&format!("{field}.{name}"), why)),
                })
                .collect::<Result<BTreeMap<_, _>, _>>()
        };
        let settings = Self {
            values: all(VALUES, values)?,
            admin_values: all(ADMIN_VALUES, admin_values)?,
            request_seconds,
        };
        if let Some(twice) = settings.values.keys().find(|name| settings.admin_values.contains_key(*name)) {
            let why = format!("stands in {ADMIN_VALUES} as well; keep one of the two");
            return Err(problem(&format!("{VALUES}.{twice}"), why));
        }
        if settings.request_seconds > REQUEST_SECONDS_MOST {
            return Err(problem("request_seconds", format!("must be 1 to {REQUEST_SECONDS_MOST}")));
        }
        if settings.body_bytes() < settings.upload_bytes() {
            let why = format!("must be at least {UPLOAD}, or no file of that size arrives");
            return Err(problem(&settings.field(BODY), why));
        }
        let seconds = u64::from(settings.request_seconds());
        if settings.number(EXECUTION).is_some_and(|given| given > seconds) {
            let why = format!("must be at most request_seconds ({seconds}); raise that as well");
            return Err(problem(&settings.field(EXECUTION), why));
        }
        Ok(settings)
    }

    /// What an intent says.
    ///
    /// # Errors
    /// As [`Settings::new`].
    pub fn of(pool: &m::PhpPool) -> Result<Self, Problem> {
        Self::new(&pool.values, &pool.admin_values, pool.request_seconds)
    }

    /// Holds the settings to what the operator allows; a default that is above a bound becomes the bound.
    ///
    /// # Errors
    /// The first setting that is above its bound, with the bound.
    pub fn within(mut self, bounds: &Bounds) -> Result<Self, Problem> {
        let above = |field: String, most: String| {
            let why =
                format!("the operator of this platform allows at most {most}; choose less, or ask for more");
            Err(problem(&field, why))
        };
        for name in [UPLOAD, BODY] {
            if self.number(name).is_some_and(|given| given > bounds.upload_bytes) {
                return above(self.field(name), in_bytes(bounds.upload_bytes));
            }
        }
        if self.number(MEMORY).is_some_and(|given| given > bounds.memory_bytes) {
            return above(self.field(MEMORY), in_bytes(bounds.memory_bytes));
        }
        let seconds = u64::from(bounds.request_seconds);
        for name in [EXECUTION, INPUT] {
            if self.number(name).is_some_and(|given| given > seconds) {
                return above(self.field(name), format!("{seconds} seconds"));
            }
        }
        if self.request_seconds > bounds.request_seconds {
            return above("request_seconds".to_owned(), format!("{seconds} seconds"));
        }
        if self.request_seconds() > bounds.request_seconds {
            self.request_seconds = bounds.request_seconds;
        }
        if self.upload_bytes() > bounds.upload_bytes {
            self.values.insert(UPLOAD.to_owned(), in_bytes(bounds.upload_bytes));
        }
        Ok(self)
    }

    /// `php_value[..]`: scripts may change them.
    #[must_use]
    pub fn values(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// `php_admin_value[..]`: scripts may not change them.
    #[must_use]
    pub fn admin_values(&self) -> &BTreeMap<String, String> {
        &self.admin_values
    }

    /// Longest request, in seconds.
    #[must_use]
    pub fn request_seconds(&self) -> u32 {
        if self.request_seconds == 0 { REQUEST_SECONDS } else { self.request_seconds }
    }

    /// Largest uploaded file, in bytes.
    #[must_use]
    pub fn upload_bytes(&self) -> u64 {
        self.number(UPLOAD).unwrap_or_else(|| match self.number(BODY) {
            Some(body) => UPLOAD_DEFAULT.min(body),
            None => UPLOAD_DEFAULT,
        })
    }

    /// Largest request body, in bytes; at least [`Settings::upload_bytes`].
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.number(BODY).unwrap_or_else(|| self.upload_bytes().saturating_add(FORM_BYTES))
    }

    /// Whether the site has an own word on a setting.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Where the site's sessions lie, relative to its webroot, if it says so.
    #[must_use]
    pub fn session_folder(&self) -> Option<&str> {
        self.get("session.save_path")
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.admin_values.get(name).or_else(|| self.values.get(name)).map(String::as_str)
    }

    /// A number of bytes or seconds; none for one that is below 0.
    fn number(&self, name: &str) -> Option<u64> {
        u64::try_from(parse_bytes(self.get(name)?)?).ok()
    }

    fn field(&self, name: &str) -> String {
        let map = if self.admin_values.contains_key(name) { ADMIN_VALUES } else { VALUES };
        format!("{map}.{name}")
    }
}

fn problem(field: &str, problem: impl Into<String>) -> Problem {
    Problem { field: field.to_owned(), problem: problem.into() }
}

/// Bytes as PHP reads them, with the largest unit that leaves no rest: `64M`.
#[must_use]
pub fn in_bytes(bytes: u64) -> String {
    match [(30, 'G'), (20, 'M'), (10, 'K')]
        .into_iter()
        .find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift))
    {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// A number of bytes with or without a unit.
fn parse_bytes(text: &str) -> Option<i64> {
    let units = [(['k', 'K'], 10), (['m', 'M'], 20), (['g', 'G'], 30)];
    let (digits, shift) = units
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))
        .unwrap_or((text, 0));
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if is_number { digits.parse::<i64>().ok()?.checked_mul(1 << shift) } else { None }
}

/// Whether the value of a setting is a path relative to the webroot.
#[must_use]
pub fn is_path(name: &str) -> bool {
    kind(name) == Some(PathInSite)
}

/// Names of the settings that sites may have.
pub fn offered() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().filter(|(_, kind)| *kind != Platform).map(|(name, _)| *name)
}

fn kind(name: &str) -> Option<Type> {
    SETTINGS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

/// The normal text of a setting.
///
/// # Errors
/// That sites cannot have it, or what is wrong with the value.
pub fn normal(name: &str, given: &str) -> Result<String, String> {
    let lower = name.to_ascii_lowercase();
    let kind = match kind(&lower) {
        Some(Platform) => return Err("is set by the platform and cannot be changed".to_owned()),
        Some(_) if lower != name => return Err(format!("PHP tells names apart by case; write {lower}")),
        Some(kind) => kind,
        None if FAMILIES.iter().any(|family| lower.starts_with(family)) => {
            return Err("is set by the platform and cannot be changed".to_owned());
        }
        None => {
            let why = "is not among the settings that sites may have; docs/operators/php.md lists those";
            return Err(why.to_owned());
        }
    };
    let text = given.trim();
    plain_text(given, TEXT_MOST)?;
    match kind {
        Platform => Err(String::new()),
        Flag => flag(text).map(str::to_owned).ok_or_else(|| format!("{given:?} must be on or off")),
        Whole(least, most) => whole(text, least, most, ""),
        Seconds(least, most) => whole(text, least, most, " seconds"),
        Bytes(least, most) => bytes(text, least, most),
        Word(words) => match words.iter().find(|word| word.eq_ignore_ascii_case(text)) {
            Some(word) => Ok((*word).to_owned()),
            None => match flag(text).filter(|flag| words.contains(flag)) {
                Some(flag) => Ok(flag.to_owned()),
                None => Err(format!("{given:?} must be one of {}", words.join(", "))),
            },
        },
        FlagOrBytes => match flag(text) {
            Some("0") => Ok("0".to_owned()),
            Some(_) => Ok("1".to_owned()),
            None => bytes(text, 0, GIB),
        },
        Text(most) => plain_text(given, most),
        TimeZone => {
            let sound = (1..=64).contains(&text.len())
                && text.split('/').all(|part| {
                    part.starts_with(|c: char| c.is_ascii_alphabetic())
                        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b))
                });
            if sound {
                Ok(text.to_owned())
            } else {
                Err(format!("{given:?} must be a time zone like Europe/Berlin"))
            }
        }
        ErrorLevels => {
            let sound = (1..=255).contains(&text.len())
                && (text.bytes().all(|b| b.is_ascii_digit())
                    || text.bytes().all(|b| b.is_ascii_uppercase() || b"_ &|~^()".contains(&b)));
            if sound { Ok(text.to_owned()) } else { Err(format!("{given:?} must be like E_ALL & ~E_NOTICE")) }
        }
        PathInSite => {
            if text.is_empty() {
                return Err("must be a path relative to the webroot".to_owned());
            }
            folder::check(text).map(|()| text.to_owned())
        }
    }
}

fn flag(text: &str) -> Option<&'static str> {
    let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is(&["1", "on", "yes", "true"]) {
        Some("1")
    } else if is(&["0", "", "off", "no", "false"]) {
        Some("0")
    } else {
        None
    }
}

fn whole(text: &str, least: i64, most: i64, unit: &str) -> Result<String, String> {
    let sound = !text.starts_with('+');
    match text.parse::<i64>() {
        Ok(number) if sound && (least..=most).contains(&number) => Ok(number.to_string()),
        Ok(_) | Err(_) => Err(format!("{text:?} must be {least} to {most}{unit}")),
    }
}

fn bytes(text: &str, least: i64, most: i64) -> Result<String, String> {
    let number = parse_bytes(text)
        .ok_or_else(|| format!("{text:?} must be a number of bytes, or one with K, M or G like 64M"))?;
    let shown = |bytes: i64| u64::try_from(bytes).map_or_else(|_| bytes.to_string(), in_bytes);
    if (least..=most).contains(&number) {
        Ok(shown(number))
    } else {
        Err(format!("{text:?} must be {} to {}", shown(least), shown(most)))
    }
}

fn plain_text(given: &str, most: usize) -> Result<String, String> {
    if given.len() > most {
        return Err(format!("must have at most {most} bytes"));
    }
    match given.chars().find(|c| c.is_control() || "\"\\$".contains(*c)) {
        Some(odd) => Err(format!("must not contain {odd:?}")),
        None => Ok(given.to_owned()),
    }
}

/// Checks a PHP version: `8.2`.
///
/// # Errors
/// What it must look like.
pub fn check_version(version: &str) -> Result<(), String> {
    let sound = version.split_once('.').is_some_and(|(major, minor)| {
        [major, minor]
            .iter()
            .all(|part| (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()))
    });
    if sound { Ok(()) } else { Err(format!("{version:?} must be a PHP version like 8.2")) }
}

#[cfg(test)]
mod tests;
