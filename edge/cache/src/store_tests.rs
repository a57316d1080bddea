//! What is stored, found, renewed, given up, and how much of it there is.

use std::sync::Arc;

use hosting_intent::message as m;

use crate::test_help::{NOW, at, pairs, policy};
use crate::{Asked, Came, Found, Key, Millis, Purges, Store, Stored, Usable, Verdict, check};

type Text<'a> = &'a [(&'a str, &'a str)];

struct Cache {
    store: Arc<Store>,
    policy: m::CachePolicy,
    purges: Purges,
}

impl Cache {
    fn new(bytes: usize, percent: usize) -> Self {
        Self { store: Store::new(bytes, percent), policy: policy(), purges: Purges::default() }
    }

    fn asked<'a>(&self, fields: Text<'a>) -> Asked<'a> {
        Asked::new(b"GET", b"/", pairs(fields).into_iter(), &self.policy, false).unwrap()
    }

    fn put(&self, key: &Key, request: Text<'_>, response: Text<'_>, body: &[u8]) -> Option<Arc<Stored>> {
        self.put_for("t", key, request, response, body, NOW)
    }

    fn put_for(
        &self,
        tenant: &str,
        key: &Key,
        request: Text<'_>,
        response: Text<'_>,
        body: &[u8],
        asked_at: Millis,
    ) -> Option<Arc<Stored>> {
        let asked = self.asked(request);
        let fields = pairs(response);
        let came = Came { status: 200, reason: b"OK", fields: &fields, length: None, asked_at, at: asked_at };
        let Verdict::Store(terms) = check(&asked, &came, &self.policy) else { panic!("{response:?}") };
        let stamp = self.purges.stamp();
        let mut draft = self.store.draft(tenant, key.clone(), &asked, &came, terms, stamp, &self.policy)?;
        let whole = body.chunks(1_000).all(|piece| draft.push(piece));
        if !whole {
            return None;
        }
        let (stored, is_stored) = draft.finish().unwrap();
        is_stored.then_some(stored)
    }

    fn find(&self, key: &Key, request: Text<'_>) -> Found {
        self.store.find(key, &self.asked(request), &self.purges, NOW)
    }

    fn body(&self, key: &Key, request: Text<'_>) -> Option<String> {
        match self.find(key, request) {
            Found::Stored(stored) => Some(String::from_utf8(stored.body().to_vec()).unwrap()),
            Found::Unshared | Found::Nothing => None,
        }
    }
}

fn page(path: &str) -> Key {
    Key::new("t", "w", false, b"a.example", path.as_bytes())
}

const FRESH: (&str, &str) = ("cache-control", "max-age=60");

#[test]
fn variants_are_kept_apart_and_the_newest_of_each_counts() {
    let cache = Cache::new(1 << 20, 100);
    let key = page("/");
    for (lang, body) in [("de", "alt"), ("de", "neu"), ("en", "new")] {
        cache
            .put(&key, &[("accept-language", lang)], &[FRESH, ("vary", "Accept-Language")], body.as_bytes())
            .unwrap();
    }
    assert_eq!(cache.body(&key, &[("accept-language", "de")]).as_deref(), Some("neu"));
    assert_eq!(cache.body(&key, &[("accept-language", "en")]).as_deref(), Some("new"));
    assert_eq!(cache.body(&key, &[]), None);
    for n in 0..8 {
        let lang = format!("x{n}");
        cache.put(&key, &[("accept-language", &lang)], &[FRESH, ("vary", "accept-language")], b"x").unwrap();
    }
    assert_eq!(cache.body(&key, &[("accept-language", "de")]), None, "the oldest made room");
    assert!(cache.body(&key, &[("accept-language", "x0")]).is_some());
}

#[test]
fn who_asks_matters_where_it_is_shown() {
    let cache = Cache::new(1 << 20, 100);
    let (plain, public) = (page("/plain"), page("/public"));
    cache.put(&plain, &[], &[FRESH], b"x").unwrap();
    cache.put(&public, &[("authorization", "a")], &[("cache-control", "public, max-age=60")], b"x").unwrap();
    assert_eq!(cache.body(&plain, &[("authorization", "b")]), None);
    assert!(cache.body(&public, &[("authorization", "b")]).is_some() && cache.body(&public, &[]).is_some());
    let silent =
        Cache { policy: m::CachePolicy { default_ttl_seconds: 60, ..policy() }, ..Cache::new(1 << 20, 100) };
    silent.put(&plain, &[], &[], b"x").unwrap();
    assert!(silent.body(&plain, &[("cookie", "_ga=1")]).is_some());
    assert_eq!(silent.body(&plain, &[("cookie", "theme=dark")]), None);
}

#[test]
fn when_a_response_can_be_used() {
    let cache = Cache::new(1 << 20, 100);
    let control = "max-age=60, stale-while-revalidate=10, stale-if-error=30";
    let stored = cache.put(&page("/"), &[], &[("cache-control", control)], b"x").unwrap();
    let usable =
        |seconds: u64, request: Text<'_>| stored.usable(&cache.asked(request), NOW + seconds * 1_000);
    let cases: [(u64, Text<'_>, Usable); 13] = [
        (0, &[], Usable::Fresh),
        (59, &[], Usable::Fresh),
        (60, &[], Usable::WhileRevalidating),
        (69, &[], Usable::WhileRevalidating),
        (70, &[], Usable::Checked),
        (0, &[("cache-control", "no-cache")], Usable::Checked),
        (0, &[("pragma", "no-cache")], Usable::Checked),
        (0, &[("pragma", "no-cache"), ("cache-control", "max-age=5")], Usable::Fresh),
        (6, &[("cache-control", "max-age=5")], Usable::Checked),
        (10, &[("cache-control", "min-fresh=50")], Usable::Fresh),
        (11, &[("cache-control", "min-fresh=50")], Usable::Checked),
        (80, &[("cache-control", "max-stale=20")], Usable::Fresh),
        (81, &[("cache-control", "max-stale=20")], Usable::Checked),
    ];
    for (seconds, request, wanted) in cases {
        assert_eq!(usable(seconds, request), wanted, "{seconds} {request:?}");
    }
    assert!(stored.usable_in_need(NOW + 89_000) && !stored.usable_in_need(NOW + 90_000));
    let strict =
        cache.put(&page("/s"), &[], &[("cache-control", "max-age=60, must-revalidate")], b"x").unwrap();
    let stale = cache.asked(&[("cache-control", "max-stale")]);
    assert_eq!(strict.usable(&stale, NOW + 61_000), Usable::Checked);
    let checked = [("cache-control", "no-cache, max-age=60"), ("etag", "\"a\"")];
    let checked = cache.put(&page("/c"), &[], &checked, b"x").unwrap();
    assert_eq!(checked.usable(&cache.asked(&[]), NOW), Usable::Checked);
    assert!(!checked.usable_in_need(NOW));
}

#[test]
fn a_304_renews_what_it_is_about() {
    let cache = Cache::new(1 << 20, 100);
    let key = page("/");
    let old = at(-100);
    let before = [
        FRESH,
        ("etag", "\"a\""),
        ("last-modified", &old),
        ("x-a", "1"),
        ("content-type", "text/css"),
        ("cache-tag", "t1"),
    ];
    let stored = cache.put(&key, &[], &before, b"body").unwrap();
    assert!(stored.fields().all(|(name, _)| name != b"cache-tag"));
    let asks: Vec<_> = stored.validators().collect();
    assert_eq!(asks, [(&b"if-none-match"[..], &b"\"a\""[..]), (b"if-modified-since", old.as_bytes())]);
    let later = NOW + 100_000;
    let date = at(100);
    let confirm = |stored: &Arc<Stored>, fields: Text<'_>| {
        let fields = pairs(fields);
        let came =
            Came { status: 304, reason: b"", fields: &fields, length: None, asked_at: later, at: later };
        cache.store.confirm(stored, &cache.asked(&[]), &came, cache.purges.stamp(), &cache.policy)
    };
    assert!(confirm(&stored, &[("etag", "\"b\"")]).is_none(), "about another one");
    let news = [
        ("etag", "W/\"a\""),
        ("date", &*date),
        ("x-a", "2"),
        ("x-b", "3"),
        ("content-type", "text/html"),
        ("cache-control", "max-age=50"),
    ];
    let (renewed, is_stored) = confirm(&stored, &news).unwrap();
    assert!(is_stored && renewed.body() == stored.body() && renewed.status() == 200);
    for (name, value) in
        [("x-a", "2"), ("x-b", "3"), ("content-type", "text/css"), ("cache-control", "max-age=50")]
    {
        assert_eq!(renewed.field(name.as_bytes()), Some(value.as_bytes()), "{name}");
    }
    assert_eq!((renewed.rest(later), &*renewed.tags()[0]), (50, &b"t1"[..]));
    assert!(matches!(cache.find(&key, &[]), Found::Stored(found) if Arc::ptr_eq(&found, &renewed)));
    let (used, is_stored) = confirm(&renewed, &[("cache-control", "private")]).unwrap();
    assert!(!is_stored && used.body() == stored.body());
    assert!(matches!(cache.find(&key, &[]), Found::Nothing));
}

#[test]
fn what_changed_is_gone_and_what_is_under_way_is_not_stored() {
    let cache = Cache::new(1 << 20, 100);
    let key = page("/");
    cache.put(&key, &[], &[FRESH], b"old").unwrap();
    cache.store.invalidate("t", &key, NOW);
    assert!(matches!(cache.find(&key, &[]), Found::Nothing));
    assert!(cache.put(&key, &[], &[FRESH], b"old").is_none(), "asked for before the change");
    assert!(cache.put_for("t", &key, &[], &[FRESH], b"new", NOW + 1).is_some());
    let _lead = cache.store.flights().join(&page("/b"));
    cache.store.invalidate("t", &page("/b"), NOW);
    assert!(cache.put(&page("/b"), &[], &[FRESH], b"old").is_none());
    cache.store.invalidate("t", &page("/c"), NOW);
    assert_eq!(cache.store.sizes().pages, 2, "what nobody has or asks for leaves no trace");
}

#[test]
fn nobody_waits_for_what_was_for_nobody_else() {
    let cache = Cache::new(1 << 20, 100);
    let key = page("/");
    cache.store.note_unshared("t", &key, NOW);
    assert!(matches!(cache.find(&key, &[]), Found::Unshared));
    let later = cache.store.find(&key, &cache.asked(&[]), &cache.purges, NOW + 10_000);
    assert!(matches!(later, Found::Nothing));
    cache.put(&key, &[], &[FRESH], b"x").unwrap();
    cache.store.note_unshared("t", &key, NOW);
    assert!(cache.body(&key, &[]).is_some(), "a variant stays");
}

#[test]
fn a_purge_kills_and_the_dead_leave() {
    let mut cache = Cache::new(1 << 20, 100);
    let (one, other) = (page("/1"), page("/2"));
    cache.put(&one, &[], &[FRESH, ("cache-tag", "post-1")], b"x").unwrap();
    cache.put(&other, &[], &[FRESH, ("cache-tag", "post-2")], b"x").unwrap();
    let tag = m::CachePurge { generation: 1, what: Some(m::cache_purge::What::Tag("post-1".into())) };
    let purges = m::CachePurges { generation: 1, all: 0, recent: vec![tag] };
    cache.purges = Purges::new(0, Some(Arc::new(purges)));
    assert!(cache.body(&one, &[]).is_none() && cache.body(&other, &[]).is_some());
    assert_eq!(cache.store.sizes().pages, 1);
    cache.put(&one, &[], &[FRESH, ("cache-tag", "post-1")], b"new").unwrap();
    assert_eq!(cache.body(&one, &[]).as_deref(), Some("new"));
}

#[test]
fn the_memory_is_bounded_and_given_back() {
    let bytes = 1 << 20;
    let cache = Cache::new(bytes, 100);
    let body = vec![b'x'; 10_000];
    cache.put(&page("/hot"), &[], &[FRESH], b"hot").unwrap();
    for n in 0..1_000 {
        // Asked for again and again, it stays whatever comes by.
        let hot = cache.body(&page("/hot"), &[]);
        assert_eq!(hot.as_deref(), Some("hot"));
        cache.put(&page(&format!("/{n}")), &[], &[FRESH], &body);
        assert!(cache.store.sizes().bytes <= bytes, "{:?}", cache.store.sizes());
    }
    let sizes = cache.store.sizes();
    assert!(sizes.pages > 50 && sizes.pages < 105 && sizes.evictions > 800, "{sizes:?}");
    assert!(cache.put(&page("/large"), &[], &[FRESH], &vec![b'x'; bytes / 64 + 1]).is_none());
    let small =
        Cache { policy: m::CachePolicy { max_object_bytes: 1_000, ..policy() }, ..Cache::new(bytes, 100) };
    assert!(small.put(&page("/"), &[], &[FRESH], &[b'x'; 999]).is_some());
    assert!(small.put(&page("/"), &[], &[FRESH], &[b'x'; 1_001]).is_none());
    let held = small.store.sizes().bytes;
    small.store.remove(&{
        let Found::Stored(stored) = small.find(&page("/"), &[]) else { panic!("it was stored") };
        stored
    });
    assert!(held > 999 && small.store.sizes().bytes == 0, "{held}");
}

#[test]
fn when_it_is_full_whoever_comes_pushes_out_what_nobody_asked_for_again() {
    let bytes = 1 << 20;
    let cache = Cache::new(bytes, 25);
    let of = |tenant: &str, n: usize| Key::new(tenant, "w", false, b"a.example", format!("/{n}").as_bytes());
    let body = vec![b'x'; 5_000];
    for tenant in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        for n in 0..40 {
            let stored = cache.put_for(tenant, &of(tenant, n), &[], &[FRESH], &body, NOW);
            assert!(stored.is_some(), "there is room for {tenant} {n}: {:?}", cache.store.sizes());
        }
    }
    let sizes = cache.store.sizes();
    assert!(sizes.bytes <= bytes && sizes.evictions > 100, "{sizes:?}");
    assert!(cache.body(&of("h", 39), &[]).is_some());
}

#[test]
fn what_is_being_stored_counts_and_what_is_given_up_is_given_back() {
    let cache = Cache::new(1 << 20, 100);
    let asked = cache.asked(&[]);
    let fields = pairs(&[FRESH]);
    let draft = |length| {
        let came = Came { status: 200, reason: b"", fields: &fields, length, asked_at: NOW, at: NOW };
        let Verdict::Store(terms) = check(&asked, &came, &cache.policy) else { panic!("it is fresh") };
        cache.store.draft("t", page("/"), &asked, &came, terms, cache.purges.stamp(), &cache.policy)
    };
    let drafts: Vec<_> = (0..100).map_while(|_| draft(Some(10_000))).collect();
    assert!(
        (4..10).contains(&drafts.len()),
        "an eighth of all, and half of that for a tenant: {}",
        drafts.len()
    );
    assert!(cache.store.sizes().bytes <= (1 << 20) / 8);
    drop(drafts);
    assert_eq!(cache.store.sizes().bytes, 0);
    let mut short = draft(Some(10)).unwrap();
    assert!(short.push(b"123456789"));
    assert!(short.finish().is_err(), "it breaks off");
    let mut given_up = draft(None).unwrap();
    assert!(given_up.push(b"12345"));
    let rest = given_up.give_up();
    assert!(rest.body() == b"12345" && cache.store.sizes().bytes >= 5);
    drop(rest);
    assert_eq!(cache.store.sizes().bytes, 0);
}

#[test]
fn a_tenant_has_its_share_and_makes_room_for_itself() {
    let cache = Cache::new(1 << 20, 25);
    let of = |tenant: &str, n: usize| Key::new(tenant, "w", false, b"a.example", format!("/{n}").as_bytes());
    let body = vec![b'x'; 5_000];
    cache.put_for("small", &of("small", 0), &[], &[FRESH], &body, NOW).unwrap();
    let mut used = Vec::new();
    for n in 0..500 {
        cache.put_for("greedy", &of("greedy", n), &[], &[FRESH], &body, NOW).unwrap();
        if n < 3 {
            used.push(of("greedy", n));
        }
        for key in &used {
            assert!(cache.body(key, &[]).is_some(), "{n}: what is used stays");
        }
    }
    let sizes = cache.store.sizes();
    assert!(sizes.bytes <= (1 << 20) / 4 + 6_000, "{sizes:?}");
    assert!(sizes.pages > 30 && sizes.evictions > 400, "{sizes:?}");
    assert!(cache.body(&of("small", 0), &[]).is_some() && cache.body(&of("greedy", 499), &[]).is_some());
    assert!(cache.body(&of("greedy", 400), &[]).is_none());
}
