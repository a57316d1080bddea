//! Bodies that belong to no kind: actions, dashboards, the fleet. Their schemas stand in OpenAPI under these names.

pub(crate) mod bulk;
pub(crate) mod desired_state;
pub(crate) mod examples;
pub(crate) mod history;
pub(crate) mod incidents;
pub(crate) mod issuance;
pub(crate) mod placement;
pub(crate) mod records;
pub(crate) mod requests;
pub(crate) mod rollouts;
pub(crate) mod webhooks;

use std::collections::BTreeMap;

use hosting_resource::Warning;
use hosting_resource::kinds::cluster;
use hosting_resource::kinds::webroot::env::{EnvVarView, EnvVarsBody};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::receipt::Receipt;

/// Body of POST /tenants/{id}/suspend.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Suspend {
    /// For operators; visitors never see it.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub(crate) reason: String,
}

/// Answer of POST /tenants/{id}/retry-failed.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RetryFailed {
    pub(crate) status: &'static str,
    /// How many resources are tried again.
    pub(crate) count: u64,
}

/// Answer of POST /shards/{id}/converge.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Converging {
    pub(crate) status: &'static str,
}

/// Answer of GET /workflows/{id}/await.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Completed {
    pub(crate) status: &'static str,
}

/// A tenant's resources: per kind a map from status to count.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Summary {
    #[serde(flatten)]
    pub(crate) kinds: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    pub(crate) total: u64,
    pub(crate) pending: u64,
    pub(crate) provisioning: u64,
    pub(crate) failed: u64,
}

/// A runtime of a cluster. For information: sites are not checked against it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RuntimeView {
    pub(crate) cluster_id: String,
    pub(crate) runtime: String,
    pub(crate) version: String,
    pub(crate) available: bool,
}

/// What a cluster can run.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Runtimes {
    pub(crate) items: Vec<RuntimeView>,
    pub(crate) has_more: bool,
}

/// One changing request.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AuditLog {
    pub(crate) id: String,
    /// The key that asked; absent when the controller did it by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_id: Option<String>,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) resource_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resource_id: Option<String>,
    pub(crate) status_code: u16,
    /// Without secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_body: Option<Value>,
    /// The revision that it made; absent when it changed nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<u64>,
    /// RFC 3339.
    pub(crate) created_at: String,
    /// 64 hexadecimal digits: SHA-256 over the link of the row written before this one and this row. Absent for rows of builds before there was
    /// a chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<String>,
}

/// A page of the audit log.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AuditPage {
    pub(crate) items: Vec<AuditLog>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<String>,
    pub(crate) has_more: bool,
}

/// Tenants of a shard.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ShardTenants {
    pub(crate) shard_id: String,
    pub(crate) shard_name: String,
    pub(crate) role: String,
    pub(crate) count: u64,
}

/// Nodes of a cluster.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ClusterNodes {
    pub(crate) cluster_id: String,
    pub(crate) cluster_name: String,
    pub(crate) count: u64,
}

/// Resources in a status.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct StatusCount {
    pub(crate) status: &'static str,
    pub(crate) count: u64,
}

/// Counts for the dashboard. What the platform does not serve yet counts as none.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Stats {
    pub(crate) brands: u64,
    pub(crate) regions: u64,
    pub(crate) clusters: u64,
    pub(crate) shards: u64,
    pub(crate) nodes: u64,
    pub(crate) tenants: u64,
    pub(crate) tenants_active: u64,
    pub(crate) tenants_suspended: u64,
    pub(crate) databases: u64,
    pub(crate) zones: u64,
    pub(crate) valkey_instances: u64,
    pub(crate) webroots: u64,
    pub(crate) fqdns: u64,
    pub(crate) tenants_per_shard: Vec<ShardTenants>,
    pub(crate) nodes_per_cluster: Vec<ClusterNodes>,
    pub(crate) tenants_by_status: Vec<StatusCount>,
    #[serde(flatten)]
    pub(crate) incidents: IncidentStats,
}

/// The incidents' part of the dashboard.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct IncidentStats {
    /// Neither resolved nor cancelled.
    pub(crate) incidents_open: u64,
    /// Of these, the critical ones.
    pub(crate) incidents_critical: u64,
    /// Of these, the ones that wait for a person.
    pub(crate) incidents_escalated: u64,
    pub(crate) incidents_by_status: Vec<IncidentCount>,
    pub(crate) capability_gaps_open: u64,
    /// Mean time from detection to resolution over 30 days; null when nothing was resolved.
    pub(crate) mttr_minutes: Option<f64>,
}

/// Incidents in a status.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct IncidentCount {
    pub(crate) status: String,
    pub(crate) count: u64,
}

/// Something found.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Found {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) id: String,
    pub(crate) label: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenant_id: Option<String>,
    pub(crate) status: &'static str,
}

/// What a search found.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SearchResults {
    pub(crate) results: Vec<Found>,
}

/// The environment variables of a site.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EnvVars {
    /// By name.
    pub(crate) items: Vec<EnvVarView>,
}

/// A text that a vault seals or has opened.
#[derive(Serialize, JsonSchema)]
pub(crate) struct VaultPlain {
    /// At most 64 KiB.
    #[schemars(extend("x-secret" = true))]
    pub(crate) plaintext: String,
}

/// What a vault sealed.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct VaultToken {
    /// `vault:v1:` and base64url. Opens for every site of the tenant.
    pub(crate) token: String,
}

/// The key-encryption keys of the store, by the names that messages have for them.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Keks {
    /// The one that seals.
    pub(crate) current: String,
    /// Those before it, the newest first. They open what is not sealed anew yet, and backups of their time.
    pub(crate) former: Vec<String>,
    /// Nothing in the store needs a former one.
    pub(crate) resealed: bool,
}

/// The certificate authorities that machines trust.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Authorities {
    /// The oldest first.
    pub(crate) items: Vec<Authority>,
    /// Subscribers in service that do not trust all of them yet, twenty at most: `edge-1 (edge/...)`.
    pub(crate) untold: Vec<String>,
    /// RFC 3339. From then on no machine has a certificate of one that does not issue.
    pub(crate) retirable_at: String,
}

/// A certificate authority.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Authority {
    /// SHA-256 of its certificate, hex.
    pub(crate) fingerprint: String,
    /// It issues; one does.
    pub(crate) issues: bool,
}

/// Body of POST /platform/authorities/promote.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct AuthorityRef {
    /// SHA-256 of its certificate, hex.
    pub(crate) fingerprint: String,
}

/// Body of POST /platform/authorities/retire.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RetireAuthority {
    /// SHA-256 of its certificate, hex.
    pub(crate) fingerprint: String,
    /// At once, though machines may have certificates of it: these have to join again.
    #[serde(default)]
    pub(crate) force: bool,
}

/// A join token: shown once.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct JoinTokenView {
    pub(crate) token: String,
    /// RFC 3339.
    pub(crate) expires_at: String,
}

/// What a dead node left open and is closed now.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Forgotten {
    pub(crate) node_id: String,
    /// Data that stayed on the node's disks, as `kind/id`; whoever reuses the machine has to erase it.
    pub(crate) data_left: Vec<String>,
}

/// An item that a subscriber does not apply.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct NotApplied {
    /// `kind/name`.
    pub(crate) key: String,
    pub(crate) revision: u64,
    pub(crate) reason: String,
}

/// Data on a node that nobody wants: kept until an operator decides.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Orphan {
    /// `kind/name`.
    pub(crate) key: String,
    pub(crate) message: String,
    /// RFC 3339.
    pub(crate) reported_at: String,
}

/// A subscriber of an audience.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SubscriberRow {
    pub(crate) node_id: String,
    pub(crate) audience: String,
    /// Empty when it has not been heard of since the controller started.
    pub(crate) build: String,
    pub(crate) epoch: String,
    /// Highest revision in effect.
    pub(crate) applied: u64,
    /// Highest revision on its disk.
    pub(crate) durable: u64,
    /// The audience's newest revision.
    pub(crate) head: u64,
    pub(crate) connected: bool,
    pub(crate) in_service: bool,
    /// Seconds since its last sign of life.
    pub(crate) silent_for: f64,
    pub(crate) rejected: Vec<NotApplied>,
    pub(crate) held: Vec<NotApplied>,
    pub(crate) unsupported: Vec<NotApplied>,
    /// Rollouts that have not come to it, with how many of their items it keeps. The revision is that of the rollout.
    pub(crate) waiting: Vec<NotApplied>,
    pub(crate) orphans: Vec<Orphan>,
}

/// Who applied what.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Subscribers {
    /// The store's epoch.
    pub(crate) epoch: String,
    /// The store's newest revision.
    pub(crate) head: u64,
    pub(crate) items: Vec<SubscriberRow>,
    pub(crate) has_more: bool,
}

/// Answer of POST /subscribers/{id}/release.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Released {
    /// Audiences whose sessions were told to apply what they hold.
    pub(crate) audiences: Vec<String>,
}

/// One link on the way of a name.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Link {
    pub(crate) name: String,
    /// `ok`, `broken`, `warning` (it works from here, but may not for everybody) or `unknown`.
    pub(crate) state: &'static str,
    pub(crate) detail: String,
}

/// What a resource of a plan waits for once the change is made.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PlannedGate {
    /// The condition, e.g. `edge`.
    pub(crate) name: String,
    pub(crate) message: String,
}

/// A resource that a change would make, change or take away.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PlannedResource {
    pub(crate) kind: &'static str,
    pub(crate) id: String,
    pub(crate) label: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenant_id: Option<String>,
    /// `created`, `changed`, `deleting` (it goes when the fleet has let go) or `deleted`.
    pub(crate) change: &'static str,
    /// The status that it would have; absent when it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<&'static str>,
    /// Fields of what the user wrote that would differ, as JSON pointers (RFC 6901); none for what is made or goes.
    pub(crate) fields: Vec<String>,
    /// Gates that would be closed. Looked at for the first hundred resources that have any.
    pub(crate) waits_for: Vec<PlannedGate>,
    /// How the platform would choose its shard, where the caller names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) placement: Option<Value>,
}

/// What the servers of an audience would be told.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PlannedAudience {
    /// e.g. `edge/cl_main`.
    pub(crate) audience: String,
    /// Items that are new.
    pub(crate) added: u64,
    /// Items with another value.
    pub(crate) changed: u64,
    /// Items that go.
    pub(crate) withdrawn: u64,
    /// Of all these, how many stop something from being served, or destroy data.
    pub(crate) takes_away: u64,
    /// The first 20 of them, as kind and key.
    pub(crate) keys: Vec<String>,
}

/// Data on nodes that would be destroyed in the end.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PlannedLoss {
    pub(crate) kind: &'static str,
    pub(crate) id: String,
    pub(crate) label: String,
}

/// Answer of a change with `dry_run=true`: what it would do if it were made now. Nothing of it was done.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Plan {
    /// Always true: tells it from the answer of a change.
    pub(crate) dry_run: bool,
    /// The first 200 resources that the key may see.
    pub(crate) resources: Vec<PlannedResource>,
    /// All resources.
    pub(crate) resources_total: u64,
    /// Audiences that would be told at once, in the order of their names; what waits for a gate is told when that opens.
    pub(crate) audiences: Vec<PlannedAudience>,
    /// The first 200 host names and zones whose answers would change, sorted.
    pub(crate) names: Vec<String>,
    /// All of them.
    pub(crate) names_total: u64,
    /// The first 200 tenants that would notice, sorted.
    pub(crate) tenants: Vec<String>,
    /// All of them.
    pub(crate) tenants_total: u64,
    /// Tenants on shards and clusters that would change as a whole.
    pub(crate) tenants_behind: u64,
    /// Only of a large change: the number that it is confirmed with, as the query parameter `confirm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) confirm: Option<u64>,
    /// Data that would be destroyed, once everything that serves it has let go.
    pub(crate) destroyed: Vec<PlannedLoss>,
    /// Steps that would follow in changes of their own, each over a bounded part of what is concerned: their effects are not in this plan.
    pub(crate) later_steps: u64,
    /// Whether the action goes on after what is planned here: it works in rounds, and this is the first one.
    pub(crate) is_first_round: bool,
    /// What was accepted and would not work as it is.
    #[schemars(with = "Vec<Warning>")]
    pub(crate) warnings: Vec<Value>,
    /// What the change would answer, where that is no resource; with `undo` what would stay as it is, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) answer: Option<Value>,
}

/// The way of a name from the API to its site.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Explanation {
    pub(crate) fqdn: String,
    /// The id of the FQDN; absent when there is none of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fqdn_id: Option<String>,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenant_id: Option<String>,
    /// The site behind it; absent when it is bound to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) webroot_id: Option<String>,
    /// The first broken link.
    pub(crate) broken: Option<String>,
    pub(crate) links: Vec<Link>,
}

/// A step that a job has begun.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct JobStepView {
    pub(crate) name: String,
    /// `running` (begun and not recorded), `failed`, `done`, `undoing` or `undone`.
    pub(crate) state: &'static str,
    pub(crate) attempts: u32,
    /// RFC 3339.
    pub(crate) started_at: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ended_at: Option<String>,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// A resource that a job waits for.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct JobWaitView {
    pub(crate) resource_id: String,
    /// How it settled: a status, or `deleted`; absent while it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

/// A job: work outside the platform's own store, in steps, with retries.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct JobView {
    pub(crate) id: String,
    pub(crate) kind: String,
    /// What jobs of the kind do; absent when this build does not know the kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) about: Option<&'static str>,
    /// What it is about, e.g. the id of a resource.
    pub(crate) subject: String,
    /// Brand whose keys may see it; absent: platform admins alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) brand_id: Option<String>,
    /// The kind's parameters, without secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) params: Option<Value>,
    /// `waiting`, `running`, `retrying`, `undoing`, `done`, `failed`, `cancelled` or `undone`.
    pub(crate) state: &'static str,
    /// Begun attempts of the step that it is at.
    pub(crate) attempts: u32,
    /// It is given up after so many attempts of one step.
    pub(crate) attempt_limit: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) progress: Option<String>,
    /// Why the last attempt failed, or why it was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cancelled_by: Option<String>,
    /// The key behind the change that it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_id: Option<String>,
    /// RFC 3339.
    pub(crate) created_at: String,
    /// RFC 3339. It begins no earlier; one that waits for resources begins when they have settled, and then at the latest.
    pub(crate) due_at: String,
    /// RFC 3339. When it is looked at next; absent while it runs, has ended, or waits behind another job about the same thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_at: Option<String>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) started_at: Option<String>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ended_at: Option<String>,
    /// Steps that it has begun.
    pub(crate) steps: Vec<JobStepView>,
    /// Resources that it waits for or waited for; in lists always empty.
    pub(crate) waits_for: Vec<JobWaitView>,
}

/// A page of jobs.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct JobPage {
    pub(crate) items: Vec<JobView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<String>,
    pub(crate) has_more: bool,
}

/// The secret that signs callbacks of an API key: shown once.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CallbackSecret {
    /// `whsec_` and base64, as libraries of the Standard Webhooks specification take it.
    pub(crate) secret: String,
    /// RFC 3339. The secret before signs along until then.
    pub(crate) previous_signs_until: String,
}

type Make = fn(&mut SchemaGenerator) -> Schema;

/// Every named body.
pub(crate) const NAMED: &[(&str, Make)] = &[
    ("Suspend", |g| Suspend::json_schema(g)),
    ("PurgeCache", |g| hosting_resource::purge::PurgeCache::json_schema(g)),
    ("ResourceEvent", |g| hosting_resource::EventView::json_schema(g)),
    ("Request", |g| requests::RequestRow::json_schema(g)),
    ("RetryFailed", |g| RetryFailed::json_schema(g)),
    ("Converging", |g| Converging::json_schema(g)),
    ("Completed", |g| Completed::json_schema(g)),
    ("Summary", |g| Summary::json_schema(g)),
    ("Rotate", |g| hosting_resource::Rotate::json_schema(g)),
    ("BrandClusters", |g| hosting_resource::kinds::brand::BrandClusters::json_schema(g)),
    ("Runtime", |g| cluster::Runtime::json_schema(g)),
    ("RuntimeView", |g| RuntimeView::json_schema(g)),
    ("Runtimes", |g| Runtimes::json_schema(g)),
    ("AuditPage", |g| AuditPage::json_schema(g)),
    ("Stats", |g| Stats::json_schema(g)),
    ("SearchResults", |g| SearchResults::json_schema(g)),
    ("JoinToken", |g| JoinTokenView::json_schema(g)),
    ("EnvVars", |g| EnvVars::json_schema(g)),
    ("SetEnvVars", |g| EnvVarsBody::json_schema(g)),
    ("VaultPlain", |g| VaultPlain::json_schema(g)),
    ("VaultToken", |g| VaultToken::json_schema(g)),
    ("Keks", |g| Keks::json_schema(g)),
    ("Authorities", |g| Authorities::json_schema(g)),
    ("AuthorityRef", |g| AuthorityRef::json_schema(g)),
    ("RetireAuthority", |g| RetireAuthority::json_schema(g)),
    ("Forgotten", |g| Forgotten::json_schema(g)),
    ("Subscribers", |g| Subscribers::json_schema(g)),
    ("Released", |g| Released::json_schema(g)),
    ("Job", |g| JobView::json_schema(g)),
    ("JobPage", |g| JobPage::json_schema(g)),
    ("Rollout", |g| rollouts::RolloutView::json_schema(g)),
    ("RolloutPage", |g| rollouts::RolloutPage::json_schema(g)),
    ("CallbackSecret", |g| CallbackSecret::json_schema(g)),
    ("HistoryPage", |g| history::HistoryPage::json_schema(g)),
    ("Undo", |g| history::UndoBody::json_schema(g)),
    ("Undone", |g| history::UndoneView::json_schema(g)),
    ("Plan", |g| Plan::json_schema(g)),
    ("Drain", |g| placement::Drain::json_schema(g)),
    ("NodeDrain", |g| placement::NodeDrain::json_schema(g)),
    ("ShardDrain", |g| placement::ShardDrain::json_schema(g)),
    ("Without", |g| placement::WithoutView::json_schema(g)),
    ("Receipt", |g| Receipt::json_schema(g)),
    ("Settings", |g| records::Settings::json_schema(g)),
    ("NewSettings", |g| records::NewSettings::json_schema(g)),
    ("NewOidcClient", |g| records::NewOidcClient::json_schema(g)),
    ("OidcClientId", |g| records::OidcClientId::json_schema(g)),
    ("LoginSession", |g| records::LoginSession::json_schema(g)),
    ("LoginOf", |g| records::LoginOf::json_schema(g)),
    ("NodeHealth", |g| records::Health::json_schema(g)),
    ("NewNodeHealth", |g| records::NewHealth::json_schema(g)),
    ("DriftEvents", |g| records::Drifts::json_schema(g)),
    ("NewDriftEvents", |g| records::NewDrifts::json_schema(g)),
    ("Incident", |g| incidents::IncidentView::json_schema(g)),
    ("IncidentPage", |g| incidents::IncidentPage::json_schema(g)),
    ("NewIncident", |g| incidents::NewIncident::json_schema(g)),
    ("IncidentPatch", |g| incidents::IncidentPatch::json_schema(g)),
    ("Resolution", |g| incidents::Resolution::json_schema(g)),
    ("Escalation", |g| incidents::Escalation::json_schema(g)),
    ("Cancellation", |g| incidents::Cancellation::json_schema(g)),
    ("IncidentEvent", |g| incidents::IncidentEventView::json_schema(g)),
    ("IncidentEventPage", |g| incidents::EventPage::json_schema(g)),
    ("NewIncidentEvent", |g| incidents::NewEvent::json_schema(g)),
    ("Gap", |g| incidents::GapView::json_schema(g)),
    ("GapPage", |g| incidents::GapPage::json_schema(g)),
    ("NewGap", |g| incidents::NewGap::json_schema(g)),
    ("GapPatch", |g| incidents::GapPatch::json_schema(g)),
    ("Usage", |g| records::Usage::json_schema(g)),
    ("Traffic", |g| records::TrafficView::json_schema(g)),
    ("Bulk", |g| bulk::BulkBody::json_schema(g)),
    ("BulkDone", |g| bulk::BulkDone::json_schema(g)),
    ("DesiredState", |g| desired_state::DesiredState::json_schema(g)),
    ("AuditHead", |g| records::AuditHeadView::json_schema(g)),
    ("AuditHeadPage", |g| records::AuditHeadPage::json_schema(g)),
    ("WebhookDelivery", |g| webhooks::DeliveryView::json_schema(g)),
    ("WebhookDeliveryPage", |g| webhooks::DeliveryPage::json_schema(g)),
    ("CertificateForecast", |g| issuance::ForecastView::json_schema(g)),
    ("Reissue", |g| issuance::ReissueBody::json_schema(g)),
    ("Explanation", |g| Explanation::json_schema(g)),
];

/// The schema of a named body.
pub(crate) fn named(name: &str) -> Option<Make> {
    NAMED.iter().find(|(known, _)| *known == name).map(|(_, make)| *make)
}
