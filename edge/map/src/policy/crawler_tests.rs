//! Crawlers and challenges, as a policy rules on them.

use hosting_intent::message::crawler_rule::Of;

use super::tests::{Around, asked, limited, policies};
use super::*;

fn crawler(agent: &str, class: m::CrawlerClass, proof: Proof) -> Crawler {
    Crawler { agent: agent.into(), class, proof }
}

fn action(verdict: m::CrawlerVerdict, per_minute: u32) -> Option<m::CrawlerAction> {
    Some(m::CrawlerAction { verdict: verdict as i32, per_minute })
}

fn rule(of: Of, action: Option<m::CrawlerAction>, impostors: Option<m::CrawlerAction>) -> m::CrawlerRule {
    m::CrawlerRule { of: Some(of), action, impostors }
}

/// Allowed is `a`, denied AI but what is the agent `b`, which may ask six times a minute, as impostors of it may once.
fn crawlers() -> m::HttpPolicy {
    use m::CrawlerVerdict::{Allow, Deny, Limit};
    let rules = vec![
        rule(Of::Agent("a".into()), action(Allow, 0), action(Deny, 0)),
        rule(Of::Class(m::CrawlerClass::Ai as i32), action(Deny, 0), action(Deny, 0)),
        rule(Of::Agent("b".into()), action(Limit, 6), action(Limit, 1)),
    ];
    m::HttpPolicy { crawlers: Some(m::CrawlerPolicy { rules }), ..m::HttpPolicy::default() }
}

fn challenge(mode: m::ChallengeMode) -> Option<m::ChallengePolicy> {
    Some(m::ChallengePolicy {
        mode: mode as i32,
        exempt_paths: vec!["/api/".into()],
        exempt_networks: vec!["198.51.100.0/24".into()],
        difficulty: 9,
        pass_seconds: 60,
    })
}

#[test]
fn a_rule_of_an_agent_goes_before_that_of_its_class_and_impostors_have_their_own_word() {
    let policies = policies(Some(crawlers()), None);
    let around = Around { now: 1, ..Around::default() };
    let rule = |crawler: &Crawler, host| {
        policies.rule(&Asked { crawler: Some(crawler), ..asked(host, "/") }, "t_a", &around)
    };
    use Proof::{Impostor, Unknown, Verified};
    use m::CrawlerClass::{Ai, Seo};
    assert_eq!(rule(&crawler("a", Ai, Verified), "x.example"), None);
    assert_eq!(rule(&crawler("a", Ai, Unknown), "x.example"), None);
    assert_eq!(rule(&crawler("a", Ai, Impostor), "x.example"), Some(Ruling::Crawler));
    assert_eq!(rule(&crawler("c", Ai, Verified), "x.example"), Some(Ruling::Crawler));
    assert_eq!(rule(&crawler("c", Seo, Impostor), "x.example"), None, "no rule is for it");
    for _ in 0..6 {
        assert_eq!(rule(&crawler("b", Ai, Verified), "x.example"), None);
    }
    assert_eq!(rule(&crawler("b", Ai, Verified), "x.example"), Some(Ruling::CrawlerBudget(10)));
    assert_eq!(rule(&crawler("b", Ai, Impostor), "x.example"), None, "impostors do not spend it");
    assert_eq!(rule(&crawler("b", Ai, Impostor), "x.example"), Some(Ruling::CrawlerBudget(60)));
    assert_eq!(rule(&crawler("b", Ai, Verified), "y.example"), None, "another name has its own");
    assert!(policies.asks_for_crawlers() && !self::policies(Some(limited(1)), None).asks_for_crawlers());
}

#[test]
fn a_tenants_budget_is_one_for_each_name_and_edges_share_it() {
    let policies = policies(None, Some(crawlers()));
    let around = Around { now: 1, edges: 3, ..Around::default() };
    let bot = crawler("b", m::CrawlerClass::Ai, Proof::Unknown);
    let rule = |host, is_below| {
        policies.rule(&Asked { crawler: Some(&bot), is_below, ..asked(host, "/") }, "t_a", &around)
    };
    for host in ["x.example", "y.example"] {
        assert_eq!([rule(host, false), rule(host, false)], [None, None]);
        assert_eq!(rule(host, false), Some(Ruling::CrawlerBudget(30)), "a third of six a minute");
    }
    assert_eq!([rule("a.w.example", true), rule("b.w.example", true)], [None, None]);
    assert_eq!(rule("c.w.example", true), Some(Ruling::CrawlerBudget(30)), "a wildcard's names are one");
}

#[test]
fn under_attack_everybody_has_to_show_that_he_is_a_browser() {
    let policy = m::HttpPolicy { challenge: challenge(m::ChallengeMode::All), ..m::HttpPolicy::default() };
    let policies = policies(Some(policy), None);
    let rule = |asked: &Asked<'_>| policies.rule(asked, "t_a", &Around::default());
    let plain = asked("x.example", "/");
    let asks = Some(Ruling::Challenge(None));
    assert_eq!(rule(&plain), asks);
    assert_eq!(rule(&Asked { is_shown: true, ..plain }), None);
    assert_eq!(rule(&Asked { address: [198, 51, 100, 7].into(), ..plain }), None);
    assert_eq!(rule(&asked("x.example", "/api/a")), None);
    assert_eq!(rule(&asked("x.example", "/api/../a")), asks);
    for (proof, wanted) in [(Proof::Verified, None), (Proof::Impostor, asks.clone()), (Proof::Unknown, asks)]
    {
        let bot = crawler("a", m::CrawlerClass::Search, proof);
        assert_eq!(rule(&Asked { crawler: Some(&bot), ..plain }), wanted, "{proof:?}");
    }
    assert_eq!(policies.challenge(), Some(Work { difficulty: 9, pass_seconds: 60 }));
    // Where the proof is taken, and nowhere else.
    let proof =
        Asked { is_post: true, is_read: false, ..asked("x.example", "/.well-known/hosting-browser?a") };
    assert_eq!(rule(&proof), Some(Ruling::Proof));
    assert_eq!(rule(&Asked { is_post: false, ..proof }), Some(Ruling::Challenge(None)));
    assert_eq!(
        rule(&Asked { path: "/.well-known/hosting-browsers", ..proof }),
        Some(Ruling::Challenge(None))
    );
}

#[test]
fn who_is_led_elsewhere_is_asked_there() {
    let policy = m::HttpPolicy {
        challenge: challenge(m::ChallengeMode::All),
        https_redirect: Some(true),
        ..m::HttpPolicy::default()
    };
    let ruled = policies(Some(policy), None).rule(&asked("tls.example", "/"), "t_a", &Around::default());
    assert!(matches!(ruled, Some(Ruling::Redirect { .. })), "{ruled:?}");
}

#[test]
fn what_is_switched_off_asks_nobody_and_is_still_known() {
    let off =
        m::HttpPolicy { challenge: challenge(m::ChallengeMode::Unspecified), ..m::HttpPolicy::default() };
    let tenant = m::HttpPolicy { challenge: challenge(m::ChallengeMode::All), ..m::HttpPolicy::default() };
    let policies = policies(Some(off), Some(tenant));
    let proof = Asked { is_post: true, ..asked("x.example", PROOF_PATH) };
    assert_eq!(policies.rule(&proof, "t_a", &Around::default()), None);
    assert!(policies.challenge().is_none() && !policies.asks_for_crawlers() && policies.knows_passes());
    assert!(!self::policies(Some(limited(1)), None).knows_passes());
}

#[test]
fn who_is_beyond_a_limit_can_show_that_he_is_a_browser_and_has_it_once_more() {
    let policy = m::HttpPolicy { challenge: challenge(m::ChallengeMode::Suspicious), ..limited(2) };
    let policies = policies(Some(policy), None);
    let around = Around { now: 1, ..Around::default() };
    let rule = |asked: &Asked<'_>| policies.rule(asked, "t_a", &around);
    let plain = asked("x.example", "/");
    assert_eq!([rule(&plain), rule(&plain)], [None, None]);
    assert_eq!(rule(&plain), Some(Ruling::Challenge(Some(30))));
    // Proof is taken whatever the limit says.
    assert_eq!(rule(&Asked { is_post: true, path: PROOF_PATH, ..plain }), Some(Ruling::Proof));
    assert_eq!(rule(&asked("x.example", "/api/a")), Some(Ruling::TooMany(30)), "nobody is asked there");
    let shown = Asked { is_shown: true, ..plain };
    assert_eq!([rule(&shown), rule(&shown)], [None, None]);
    assert_eq!(rule(&shown), Some(Ruling::TooMany(30)), "a browser has no more than that");
    // Without a challenge a pass is worth nothing.
    let strict = self::policies(Some(limited(1)), None);
    let rule = |asked: &Asked<'_>| strict.rule(asked, "t_a", &around);
    let shown = Asked { is_shown: true, ..asked("y.example", "/") };
    assert_eq!([rule(&asked("y.example", "/")), rule(&shown)], [None, Some(Ruling::TooMany(60))]);
}

#[test]
fn an_impostor_is_suspicious() {
    let policy = |challenge, crawlers: bool| {
        let policy = if crawlers { self::crawlers() } else { m::HttpPolicy::default() };
        policies(Some(m::HttpPolicy { challenge, ..policy }), None)
    };
    let suspicious = || challenge(m::ChallengeMode::Suspicious);
    let bot = crawler("a", m::CrawlerClass::Search, Proof::Impostor);
    let around = Around::default();
    let plain = Asked { crawler: Some(&bot), ..asked("x.example", "/") };
    for crawlers in [true, false] {
        let policies = policy(suspicious(), crawlers);
        assert!(policies.asks_for_crawlers());
        assert_eq!(policies.rule(&plain, "t_a", &around), Some(Ruling::Challenge(None)), "{crawlers}");
        let shown = Asked { is_shown: true, ..plain };
        assert_eq!(policies.rule(&shown, "t_a", &around), None, "a person with such a browser");
    }
    // Exempt from being asked is not exempt from the rule.
    let api = Asked { path: "/api/a", ..plain };
    assert_eq!(policy(suspicious(), true).rule(&api, "t_a", &around), Some(Ruling::Crawler));
    assert_eq!(policy(suspicious(), false).rule(&api, "t_a", &around), None);
    assert_eq!(policy(None, false).rule(&plain, "t_a", &around), None);
    // What is no impostor has no way around its rule.
    let real = crawler("c", m::CrawlerClass::Ai, Proof::Unknown);
    let real = Asked { crawler: Some(&real), is_shown: true, ..plain };
    assert_eq!(policy(suspicious(), true).rule(&real, "t_a", &around), Some(Ruling::Crawler));
}
