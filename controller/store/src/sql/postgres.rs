//! PostgreSQL by sqlx.

use std::ops::DerefMut;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{
    PgArgumentBuffer, PgArguments, PgConnectOptions, PgListener, PgPoolOptions, PgRow, PgTypeInfo,
};
use sqlx::{
    Arguments, AssertSqlSafe, Column, ConnectOptions, Encode, PgConnection, PgPool, Postgres, Row as _, Type,
    TypeInfo,
};

use super::{Query, Row, Value};
use crate::StoreError;

/// Prepared statements that a connection keeps. Those of many rows differ by the number of rows, so there are some hundreds.
const PREPARED: usize = 512;
/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How much longer than the server a statement is waited for.
pub(crate) const WAY: Duration = Duration::from_secs(3);
/// After notifications could not be heard.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

fn read(url: &str) -> Result<PgConnectOptions, StoreError> {
    // The driver's error shows the text that it could not read, which may hold a password.
    PgConnectOptions::from_str(url)
        .map_err(|_| StoreError::value("database", "this is no connection string for PostgreSQL"))
}

/// Where a connection string points to, without user and password.
pub(crate) fn place(url: &str) -> Result<String, StoreError> {
    let options = read(url)?;
    let database = options.get_database().unwrap_or_default();
    Ok(match options.get_socket() {
        Some(folder) => format!("postgres://{}/{database}", folder.display()),
        None => format!("postgres://{}:{}/{database}", options.get_host(), options.get_port()),
    })
}

/// What a connection string says, e.g. `postgres://hosting@db.example/hosting?sslmode=verify-full`.
///
/// A controller that stands still in the middle of a transaction must not keep the head locked: the server ends such a session.
pub(crate) fn options(url: &str, mutation_timeout: Duration) -> Result<PgConnectOptions, StoreError> {
    let longest = mutation_timeout.as_millis().to_string();
    Ok(read(url)?
        .options([
            ("idle_in_transaction_session_timeout", "5000"),
            ("statement_timeout", &longest),
            // Every statement that is sent often has an index. Until the server knows how large a new table has become, which takes it a
            // minute or more, it would plan to go over all rows, and keep to that plan.
            ("enable_seqscan", "off"),
            // The server takes the price of a forbidden plan, for a table without an index, for real work, and would compile it.
            ("jit", "off"),
        ])
        .application_name("hosting-controller")
        .statement_cache_capacity(PREPARED)
        // Statements carry tenant data in their errors at most; their text is no log line.
        .disable_statement_logging())
}

/// The writer's connection.
pub(crate) async fn connect(
    options: &PgConnectOptions,
    limit: Duration,
) -> Result<Link<Box<PgConnection>>, StoreError> {
    let connection = tokio::time::timeout(CONNECT_LIMIT, options.connect()).await.map_err(|_| silent())??;
    Ok(Link::new(Box::new(connection), limit))
}

/// Calls `heard` at each notification of a channel, until the task is ended. A connection that is lost is made anew: what was missed
/// meanwhile counts as heard.
pub(crate) async fn listen(options: PgConnectOptions, channel: &'static str, heard: impl Fn()) {
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
    loop {
        let listened = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(channel).await?;
            loop {
                heard();
                listener.recv().await?;
            }
        };
        let ended: Result<(), sqlx::Error> = listened.await;
        if let Err(error) = ended {
            tracing::debug!(%error, "notifications of PostgreSQL are not heard; trying again");
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

/// The readers' connections.
pub(crate) fn pool(options: &PgConnectOptions, count: u32, timeout: Duration) -> PgPool {
    PgPoolOptions::new().max_connections(count).acquire_timeout(timeout).connect_lazy_with(options.clone())
}

/// NULL of whatever type the statement wants there.
struct Unknown;

impl Type<Postgres> for Unknown {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Unknown {
    fn encode_by_ref(&self, _: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Ok(IsNull::Yes)
    }
}

fn arguments(values: Vec<Value>) -> Result<PgArguments, StoreError> {
    let mut arguments = PgArguments::default();
    for value in values {
        let added = match value {
            Value::Null => arguments.add(Unknown),
            Value::Integer(number) => arguments.add(number),
            Value::Text(text) => arguments.add(text),
            Value::Blob(blob) => arguments.add(blob),
        };
        added.map_err(|error| StoreError::value("parameter", error.to_string()))?;
    }
    Ok(arguments)
}

/// A connection that is given up when the server does not answer: a network that drops packets says nothing for a quarter of an hour.
pub(crate) struct Link<C> {
    connection: C,
    /// How long one statement may take on the way there and back.
    limit: Duration,
    /// A statement was given up: what the connection would answer next belongs to that one.
    is_dead: bool,
}

impl<C: DerefMut<Target = PgConnection>> Link<C> {
    pub(super) const fn new(connection: C, limit: Duration) -> Self {
        Self { connection, limit, is_dead: false }
    }

    pub(super) fn into_inner(self) -> C {
        self.connection
    }

    async fn within<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        if self.is_dead {
            return Err(silent());
        }
        let answer = tokio::time::timeout(self.limit, work(&mut self.connection)).await;
        self.is_dead = answer.is_err();
        Ok(answer.map_err(|_| silent())??)
    }

    pub(super) async fn rows(&mut self, query: Query) -> Result<Vec<Row>, StoreError> {
        let (text, arguments) = (query.numbered(), arguments(query.values)?);
        let rows = self
            .within(async |link| sqlx::query_with(AssertSqlSafe(text), arguments).fetch_all(link).await)
            .await?;
        rows.iter().map(row).collect()
    }

    pub(super) async fn execute(&mut self, query: Query) -> Result<u64, StoreError> {
        let (text, arguments) = (query.numbered(), arguments(query.values)?);
        let done = self
            .within(async |link| sqlx::query_with(AssertSqlSafe(text), arguments).execute(link).await)
            .await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn batch(&mut self, text: &str) -> Result<(), StoreError> {
        let text = text.to_owned();
        self.within(async |link| sqlx::raw_sql(AssertSqlSafe(text)).execute(link).await).await?;
        Ok(())
    }
}

fn silent() -> StoreError {
    StoreError::Io("PostgreSQL does not answer".into())
}

fn row(row: &PgRow) -> Result<Row, StoreError> {
    let mut values = Vec::with_capacity(row.len());
    for (place, column) in row.columns().iter().enumerate() {
        values.push(match column.type_info().name() {
            "INT8" => row.try_get::<Option<i64>, _>(place)?.into(),
            "INT4" => row.try_get::<Option<i32>, _>(place)?.into(),
            "BOOL" => row.try_get::<Option<bool>, _>(place)?.into(),
            "TEXT" => row.try_get::<Option<String>, _>(place)?.into(),
            "BYTEA" => row.try_get::<Option<Vec<u8>>, _>(place)?.into(),
            other => return Err(StoreError::row(format!("column {place} is of type {other}"))),
        });
    }
    Ok(Row::new(values))
}

impl From<sqlx::Error> for StoreError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the driver's enum grows; what is not told apart is shown as it is"
    )]
    fn from(error: sqlx::Error) -> Self {
        let text: Arc<str> = error.to_string().into();
        if let sqlx::Error::Database(database) = &error {
            // https://www.postgresql.org/docs/current/errcodes-appendix.html
            let code = database.code().unwrap_or_default();
            return match (&*code, code.get(..2)) {
                ("53100", _) => Self::DiskFull,
                (_, Some("XX")) => Self::Corrupt(text),
                // Serialization failure, deadlock; too many connections and the like; shutdown, failover, cancel.
                (_, Some("40" | "53" | "57")) => Self::Busy(text),
                (_, Some("08" | "58")) => Self::Io(text),
                _ => Self::Sql(text),
            };
        }
        match error {
            sqlx::Error::PoolTimedOut => Self::Busy("all readers are in use".into()),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Self::Closed,
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) => Self::Io(text),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Row(text),
            _ => Self::Sql(text),
        }
    }
}
