//! Verbs that change a resource, and what is waited for after them.

use std::{process::ExitCode, time::Duration};

use hosting_resource::{Kind, KindInfo};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    body, names, parent_id, plan,
    show::print_conditions,
    wait::{Waited, reasons, until_settled},
};
use crate::{
    api::{Api, ApiError},
    args::{
        CreateArgs, DeleteArgs, OneArgs, PurgeCacheArgs, RetryArgs, SuspendArgs, TenantArgs, UnsuspendArgs,
        Until, UpdateArgs, WaitArgs, WaitForArgs,
    },
    format::Format,
    kinds::{self, collection, item, label_of, plurals},
    output::{self, usage},
    progress::Progress,
};

/// The longest that the API itself lets a request wait; what is asked for beyond is waited for here.
const LONGEST_REQUEST: Duration = Duration::from_secs(300);
/// What an answer may take beside the wait itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a look may take that only tells what became of something.
const GLANCE: Duration = Duration::from_secs(2);

/// One request that changes a resource.
struct Change<'a> {
    info: &'static KindInfo,
    method: Method,
    path: String,
    body: Option<Value>,
    /// The resource's id; a created one's is known from the answer only.
    id: Option<String>,
    /// What it lies in, if that is known.
    parent: Option<String>,
    wait: &'a WaitArgs,
    /// The number that confirms a large change.
    confirm: Option<u64>,
}

impl OneArgs {
    /// Its id, and that of what it lies in, if that was said.
    pub(crate) async fn resolve(&self, api: &Api) -> anyhow::Result<(String, Option<String>)> {
        let parent = parent_id(api, self.kind, self.parent.as_deref()).await?;
        let id = names::id_of(api, self.kind, &self.id, parent.as_deref()).await?;
        Ok((id, parent))
    }
}

impl TenantArgs {
    fn name(&self) -> anyhow::Result<&str> {
        match self.words.as_slice() {
            [name] => Ok(kinds::id_in("tenant", name)),
            [kind, name] if kinds::kind(kind).is_ok_and(|info| info.kind == Kind::Tenant) => Ok(name),
            _ => Err(usage("this is for tenants alone: write TENANT, or tenant TENANT")),
        }
    }
}

pub(crate) async fn create(api: &Api, args: &CreateArgs, format: Format) -> anyhow::Result<ExitCode> {
    let info = args.kind;
    let schema = body::create_schema(info);
    let mut fields = body::read(&schema, args.body.file.as_deref(), &args.body.set)?;
    let parent = parent_id(api, info, args.parent.as_deref()).await?;
    let path = collection(info, parent.as_deref())?;
    body::resolve(api, info, &schema, &mut fields, parent.as_deref()).await?;
    let id = fields.get("id").and_then(Value::as_str).map(str::to_owned);
    let body = Some(Value::Object(fields));
    Change {
        info,
        method: Method::POST,
        path,
        body,
        id,
        parent,
        wait: &args.wait,
        confirm: args.wait.confirm,
    }
    .carry_out(api, format)
    .await
}

pub(crate) async fn update(api: &Api, args: &UpdateArgs, format: Format) -> anyhow::Result<ExitCode> {
    let info = args.one.kind;
    if info.codes.update.is_none() {
        let others = plurals(|info| info.codes.update.is_some());
        return Err(usage(format!("{} cannot be changed; it is for {others}", info.plural())));
    }
    let schema = body::update_schema(info);
    let mut fields = body::read(&schema, args.body.file.as_deref(), &args.body.set)?;
    let (id, parent) = args.one.resolve(api).await?;
    body::resolve(api, info, &schema, &mut fields, parent.as_deref()).await?;
    let body = Some(Value::Object(fields));
    Change {
        info,
        method: Method::PUT,
        path: item(info, &id),
        body,
        id: Some(id),
        parent,
        wait: &args.wait,
        confirm: args.wait.confirm,
    }
    .carry_out(api, format)
    .await
}

pub(crate) async fn delete(api: &Api, args: &DeleteArgs, format: Format) -> anyhow::Result<ExitCode> {
    let done = async {
        let (id, parent) = args.one.resolve(api).await?;
        let (info, mut path) = (args.one.kind, item(args.one.kind, &id));
        if args.now {
            path = plan::with(&path, "now=true");
        }
        let mut confirm = args.wait.confirm;
        if !(args.yes || args.wait.dry_run || format.is_for_programs()) && plan::can_ask() {
            let plan = plan::of(api, Method::DELETE, &path, None).await?;
            if plan::goes_beyond_one(&plan) && !plan::is_agreed_to(&plan)? {
                output::note("nothing was changed");
                return Ok(ExitCode::from(output::INTERRUPTED));
            }
            confirm = confirm.or(plan::number(&plan));
        }
        let (id, wait) = (Some(id), &args.wait);
        Change { info, method: Method::DELETE, path, body: None, id, parent, wait, confirm }
            .carry_out(api, format)
            .await
    };
    match done.await {
        Err(error) if args.ignore_not_found && is_not_found(&error) => {
            if format.is_for_programs() {
                let gone = json!({"id": args.one.id, "status": "deleted"});
                output::named(format, &args.one.kind.dashed(), "id", &gone);
            } else {
                output::note(format!("{} {:?} is not there", args.one.kind.dashed(), args.one.id));
            }
            Ok(ExitCode::SUCCESS)
        }
        other => other,
    }
}

fn is_unconfirmed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ApiError>().is_some_and(ApiError::is_unconfirmed)
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ApiError>().is_some_and(ApiError::is_not_found)
}

pub(crate) async fn suspend(api: &Api, args: &SuspendArgs, format: Format) -> anyhow::Result<ExitCode> {
    let body = json!({"reason": args.reason});
    act(api, Kind::Tenant.info(), args.tenant.name()?, "suspend", body, &args.wait, format).await
}

pub(crate) async fn unsuspend(api: &Api, args: &UnsuspendArgs, format: Format) -> anyhow::Result<ExitCode> {
    act(api, Kind::Tenant.info(), args.tenant.name()?, "unsuspend", json!({}), &args.wait, format).await
}

pub(crate) async fn purge_cache(
    api: &Api,
    args: &PurgeCacheArgs,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let PurgeCacheArgs { tenant, everything, host, url, tag, wait } = args;
    let body = json!({"everything": everything, "hosts": host, "urls": url, "tags": tag});
    act(api, Kind::Tenant.info(), tenant.name()?, "purge-cache", body, wait, format).await
}

pub(crate) async fn retry(api: &Api, args: &RetryArgs, format: Format) -> anyhow::Result<ExitCode> {
    let info = args.one.kind;
    let action = match (args.all, info.kind) {
        (true, Kind::Tenant) => "retry-failed",
        (true, _) => return Err(usage("--all is for tenants: it tries everything of one again that failed")),
        (false, _) if info.retry => "retry",
        (false, _) => {
            let others = plurals(|info| info.retry);
            return Err(usage(format!("{} cannot be tried again; it is for {others}", info.plural())));
        }
    };
    let (id, _) = args.one.resolve(api).await?;
    act(api, info, &id, action, json!({}), &args.wait, format).await
}

/// `POST {item}/{action}`.
async fn act(
    api: &Api,
    info: &'static KindInfo,
    given: &str,
    action: &str,
    body: Value,
    wait: &WaitArgs,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let id = names::id_of(api, info, given, None).await?;
    let path = format!("{}/{action}", item(info, &id));
    Change {
        info,
        method: Method::POST,
        path,
        body: Some(body),
        id: Some(id),
        parent: None,
        wait,
        confirm: wait.confirm,
    }
    .carry_out(api, format)
    .await
}

pub(crate) async fn wait(api: &Api, args: &WaitForArgs, format: Format) -> anyhow::Result<ExitCode> {
    let info = args.one.kind;
    let (id, _) = args.one.resolve(api).await?;
    let until = Instant::now() + args.timeout;
    let mut progress = Progress::new();
    progress.step(format!("waiting for {} {id}", info.dashed()));
    let waited = tokio::select! {
        waited = progress.during(until_settled(api, info, &id, until, &progress)) => waited,
        _ = tokio::signal::ctrl_c() => {
            progress.clear();
            return Ok(left(info, Some(&id), None, format));
        }
    };
    progress.clear();
    settle(info, waited?, format)
}

impl Change<'_> {
    async fn carry_out(mut self, api: &Api, format: Format) -> anyhow::Result<ExitCode> {
        if self.wait.dry_run {
            let plan = plan::of(api, self.method.clone(), &self.path, self.body.as_ref()).await?;
            plan::show(&plan, format);
            return Ok(ExitCode::SUCCESS);
        }
        let refused = match self.send(api, format).await {
            Err(error) if is_unconfirmed(&error) && !format.is_for_programs() && plan::can_ask() => error,
            other => return other,
        };
        let plan = plan::of(api, self.method.clone(), &self.path, self.body.as_ref()).await?;
        let Some(number) = plan::number(&plan) else { return Err(refused) };
        if !plan::is_agreed_to(&plan)? {
            output::note("nothing was changed");
            return Ok(ExitCode::from(output::INTERRUPTED));
        }
        self.confirm = Some(number);
        self.send(api, format).await
    }

    async fn send(&self, api: &Api, format: Format) -> anyhow::Result<ExitCode> {
        let Some(wanted) = self.wait.wait else {
            let path = plan::confirmed(&self.path, self.confirm);
            let (status, answer) = api.send(self.method.clone(), &path, self.body.as_ref()).await?;
            let told = self.told(api, status, answer).await;
            return Ok(outcome(self.info, self.id.as_deref(), &told, false, format));
        };
        let begun = Instant::now();
        let mut progress = Progress::new();
        progress.step(format!("waiting for {}", self.what()));
        let done = tokio::select! {
            done = progress.during(self.waited_for(api, wanted, begun + self.wait.timeout, &progress)) => done,
            _ = tokio::signal::ctrl_c() => {
                progress.clear();
                let found = tokio::time::timeout(GLANCE, self.find(api)).await.unwrap_or_default();
                let id = found["id"].as_str().or(self.id.as_deref());
                return Ok(left(self.info, id, label_of(&found), format));
            }
        };
        progress.clear();
        let (status, answer) = done?;
        let late = status == StatusCode::ACCEPTED;
        let told = self.told(api, status, answer).await;
        Ok(outcome(self.info, self.id.as_deref(), &told, late, format))
    }

    /// The answer once it is in effect, or 202 when it is not by then.
    async fn waited_for(
        &self,
        api: &Api,
        wanted: Until,
        until: Instant,
        progress: &Progress,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let seconds = self.wait.timeout.min(LONGEST_REQUEST).as_secs().max(1);
        let path = plan::with(&self.path, &format!("wait={}&wait_timeout={seconds}", wanted.as_str()));
        let path = plan::confirmed(&path, self.confirm);
        let limit = Duration::from_secs(seconds) + PATIENCE;
        let (status, mut answer) =
            api.send_within(self.method.clone(), &path, self.body.as_ref(), limit).await?;
        let id = answer["id"].as_str().map(str::to_owned).or_else(|| self.id.clone());
        // That something is served is known by that answer alone.
        let goes_on = status == StatusCode::ACCEPTED && wanted == Until::Ready && Instant::now() < until;
        let Some(id) = id.filter(|_| goes_on) else {
            return Ok((status, answer));
        };
        let (status, seen) = match until_settled(api, self.info, &id, until, progress).await? {
            Waited::Ready(seen) => (StatusCode::OK, seen),
            Waited::Late(seen) => (StatusCode::ACCEPTED, seen),
            Waited::Rejected(seen) => return Err(rejected(self.info, &seen)),
        };
        // What the answer showed this once stays in it.
        if let (Value::Object(answer), Value::Object(seen)) = (&mut answer, seen) {
            answer.extend(seen);
        }
        Ok((status, answer))
    }

    /// The answer; the API says of some changes with its code alone that they are made.
    async fn told(&self, api: &Api, status: StatusCode, answer: Value) -> Value {
        if answer.is_object() {
            return answer;
        }
        let mut told = json!({"id": self.id, "status": "accepted"});
        if self.method == Method::DELETE {
            told["status"] = if status == StatusCode::ACCEPTED { "deleting" } else { "deleted" }.into();
            // What is kept is shown to whoever asks for it; what is not has nothing to show.
            let path = self.id.as_ref().map(|id| plan::with(&item(self.info, id), "status=deleted"));
            let glance = async { Some(api.get(&path?).await.ok()?["restorable_until"].clone()) };
            let until = tokio::time::timeout(GLANCE, glance).await.ok().flatten();
            if let Some(until) = until.filter(Value::is_string) {
                told["status"] = "deleted".into();
                told["restorable_until"] = until;
            }
        }
        told
    }

    /// As a person would call it.
    fn what(&self) -> String {
        let label = self.body.as_ref().and_then(label_of).or(self.id.as_deref());
        format!("{} {}", self.info.dashed(), label.unwrap_or_default()).trim().to_owned()
    }

    /// The resource that the request was about, although its answer was not waited for.
    async fn find(&self, api: &Api) -> Value {
        if let Some(id) = &self.id {
            return api.get(&item(self.info, id)).await.unwrap_or_default();
        }
        let label = self.body.as_ref().and_then(label_of);
        let found = match label {
            Some(label) => {
                names::bearers(api, self.info, label, self.parent.as_deref()).await.unwrap_or_default()
            }
            None => api.list(&self.path).await.unwrap_or_default(),
        };
        // Without a name of its own it is the newest of its kind there.
        let newest = found.into_iter().max_by_key(|one| output::cell(&one["created_at"]));
        newest.filter(|one| one["status"] != "deleting").unwrap_or_default()
    }
}

/// Ctrl-C: the platform goes on with what it was told.
fn left(info: &KindInfo, id: Option<&str>, label: Option<&str>, format: Format) -> ExitCode {
    let kind = info.dashed();
    let name = label.filter(|label| Some(*label) != id).map(|label| format!("{label} ")).unwrap_or_default();
    let (message, next) = match id {
        Some(id) => (
            format!("no longer waiting; the platform goes on with {kind} {name}{id}"),
            format!("to go on waiting: hostctl wait {kind} {id}"),
        ),
        None => (
            format!("no longer waiting; whether the {kind} was made is not known"),
            format!("to see: hostctl get {}", info.plural()),
        ),
    };
    if matches!(format, Format::Json | Format::Yaml) {
        let code = output::INTERRUPTED;
        output::data(format, &json!({"error": message, "exit_code": code, "id": id, "name": label}));
    } else {
        output::note(format!("\n{message}\n{next}"));
    }
    ExitCode::from(output::INTERRUPTED)
}

fn rejected(info: &KindInfo, one: &Value) -> anyhow::Error {
    let id = output::cell(&one["id"]);
    let message = format!("the fleet rejected {} {id}: {}", info.dashed(), reasons(one));
    ApiError::Answer { status: StatusCode::CONFLICT.as_u16(), message }.into()
}

/// Says how waiting ended.
fn settle(info: &KindInfo, waited: Waited, format: Format) -> anyhow::Result<ExitCode> {
    match waited {
        Waited::Ready(one) => Ok(outcome(info, None, &one, false, format)),
        Waited::Late(one) => Ok(outcome(info, None, &one, true, format)),
        Waited::Rejected(one) => Err(rejected(info, &one)),
    }
}

/// Lines with the secrets that an answer shows this once.
fn secrets(answer: &Value) -> impl Iterator<Item = String> + '_ {
    ["key", "password"]
        .into_iter()
        .filter_map(|name| Some(format!("{name} (shown this once): {}", answer[name].as_str()?)))
}

/// Prints the answer of a change; `id` is the resource's where the answer does not say it. Waited for and not ready is a code of its own.
pub(crate) fn outcome(
    info: &KindInfo,
    id: Option<&str>,
    answer: &Value,
    late: bool,
    format: Format,
) -> ExitCode {
    let code = if late { ExitCode::from(output::NOT_READY) } else { ExitCode::SUCCESS };
    if format == Format::Name {
        if let Some(id) = answer["id"].as_str().or(id) {
            output::line(kinds::name(&info.dashed(), id));
        }
        // A secret that is shown only this once must not be lost; it is no name, so it stands beside them.
        secrets(answer).for_each(output::note);
        return code;
    }
    if format.is_for_programs() {
        output::data(format, answer);
        return code;
    }
    output::warnings(answer);
    match answer["id"].as_str() {
        Some(id) => {
            let label = label_of(answer).filter(|label| *label != id).map(|label| format!(" {label}"));
            output::line(format!(
                "{} {id}{} {}",
                info.dashed(),
                label.unwrap_or_default(),
                output::cell(&answer["status"])
            ));
        }
        None => {
            let count = answer["count"].as_u64().map(|count| format!(": {count}")).unwrap_or_default();
            output::line(format!("{}{count}", answer["status"].as_str().unwrap_or("done")));
        }
    }
    if let (Some(until), Some(id)) = (answer["restorable_until"].as_str(), answer["id"].as_str()) {
        let kind = info.dashed();
        output::line(format!("kept until {until}; to bring it back: hostctl undelete --kind {kind} {id}"));
    }
    secrets(answer).for_each(output::line);
    if late {
        output::note("not ready within the time limit:");
        print_conditions(answer["conditions"].as_array().map_or(&[], Vec::as_slice));
        for lagging in answer["lagging"].as_array().into_iter().flatten() {
            output::note(format!("lagging: {}", output::cell(lagging)));
        }
        if let Some(id) = answer["id"].as_str() {
            output::note(format!("to go on waiting: hostctl wait {} {id}", info.dashed()));
        }
    }
    code
}
