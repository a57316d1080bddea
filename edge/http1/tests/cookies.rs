//! A request without some of its cookies is the same request.
#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use bytes::{Bytes, BytesMut};
use hosting_edge_http1::{Request, RequestHead, push_upstream_head};

fn request(fields: &str) -> Request {
    let head = format!("POST /a?b HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
    Request::new(RequestHead::parse(Bytes::from(head)).unwrap()).unwrap()
}

fn upstream(request: &Request) -> String {
    let mut out = BytesMut::new();
    push_upstream_head(&mut out, request, b"web", &[], true);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn cookies_of_these_names_are_taken_out_and_nothing_else() {
    let names: [&[u8]; 2] = [b"ours", b"__Host-ours"];
    for (before, after) in [
        ("Cookie: ours=1\r\n", ""),
        ("Cookie: a=1; ours=2; b=3\r\n", "Cookie: a=1; b=3\r\n"),
        ("cookie: ours=1; a=2\r\ncookie: b=3;__Host-ours=4; ours\r\n", "cookie: a=2\r\ncookie: b=3\r\n"),
        (
            "X: 1\r\nCookie: a=1 ;ours=2\r\nContent-Length: 5\r\nExpect: 100-continue\r\n",
            "X: 1\r\nCookie: a=1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n",
        ),
        ("Cookie: ours=\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\n"),
    ] {
        let (without, wanted) = (request(before).without_cookies(&names).unwrap(), request(after));
        assert_eq!(upstream(&without), upstream(&wanted), "{before}");
        assert_eq!((without.body(), without.expects_continue()), (wanted.body(), wanted.expects_continue()));
    }
    for kept in [
        "",
        "Cookie: a=1\r\n",
        "Cookie: xours=1; ours2=3; a=ours\r\n",
        "Cookies: ours=1\r\n",
        "Cookie: Ours=1\r\n",
    ] {
        assert!(request(kept).without_cookies(&names).is_none(), "{kept}");
    }
}
