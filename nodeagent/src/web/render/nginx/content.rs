//! Pages of our own and media types.

/// Shown where a fresh site has nothing yet.
pub const EMPTY_PAGE: &str = "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">
<title>This site is ready</title></head>
<body style=\"font-family:sans-serif;max-width:40em;margin:4em auto;padding:0 1em\">
<h1>This site is ready</h1><p>Nothing has been uploaded yet: there is no index file.</p></body></html>
";

/// Shown for a suspended site, should a request come past the edge.
pub const SUSPENDED_PAGE: &str = "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">
<title>This site is unavailable</title></head>
<body style=\"font-family:sans-serif;max-width:40em;margin:4em auto;padding:0 1em\">
<h1>This site is unavailable</h1><p>It has been suspended.</p></body></html>
";

/// Media types (IANA), so that no file of the distribution is needed.
pub(super) const TYPES: &str = "    text/html html htm shtml;
    text/css css;
    text/plain txt log;
    text/csv csv;
    text/calendar ics;
    text/markdown md;
    text/xml xml;
    text/vtt vtt;
    text/javascript js mjs;
    application/json json map;
    application/ld+json jsonld;
    application/manifest+json webmanifest;
    application/atom+xml atom;
    application/rss+xml rss;
    application/wasm wasm;
    application/pdf pdf;
    application/rtf rtf;
    application/zip zip;
    application/gzip gz;
    application/x-7z-compressed 7z;
    application/x-tar tar;
    application/java-archive jar;
    application/epub+zip epub;
    application/msword doc;
    application/vnd.ms-excel xls;
    application/vnd.ms-powerpoint ppt;
    application/vnd.openxmlformats-officedocument.wordprocessingml.document docx;
    application/vnd.openxmlformats-officedocument.spreadsheetml.sheet xlsx;
    application/vnd.openxmlformats-officedocument.presentationml.presentation pptx;
    application/vnd.oasis.opendocument.text odt;
    application/vnd.oasis.opendocument.spreadsheet ods;
    image/gif gif;
    image/jpeg jpeg jpg;
    image/png png;
    image/apng apng;
    image/avif avif;
    image/webp webp;
    image/svg+xml svg svgz;
    image/bmp bmp;
    image/tiff tif tiff;
    image/x-icon ico;
    font/woff woff;
    font/woff2 woff2;
    font/ttf ttf;
    font/otf otf;
    application/vnd.ms-fontobject eot;
    audio/mpeg mp3;
    audio/ogg ogg oga opus;
    audio/mp4 m4a;
    audio/flac flac;
    audio/wav wav;
    audio/midi mid midi;
    video/mp4 mp4 m4v;
    video/webm webm;
    video/ogg ogv;
    video/mpeg mpeg mpg;
    video/quicktime mov;
    video/x-msvideo avi;
    video/mp2t ts;
    application/vnd.apple.mpegurl m3u8;
";
