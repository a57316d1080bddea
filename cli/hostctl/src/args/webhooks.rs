//! What can be asked of a webhook beside what every kind can.

use clap::{Args, Subcommand};

/// What can be asked of a webhook beside what every kind can.
#[derive(Debug, Subcommand)]
pub(crate) enum WebhooksCommand {
    /// What was posted to it lately, the newest first, and what came of it
    #[command(after_help = "Example:
  hostctl webhooks deliveries billing --limit 20")]
    Deliveries(DeliveriesArgs),
    /// Post a test to it
    #[command(after_help = "Example:
  hostctl webhooks test billing")]
    Test(WebhookArgs),
    /// Post something to it once more, under the same id
    #[command(after_help = "Example:
  hostctl webhooks redeliver billing evt_0a1b2c3d4e5f_4712_0")]
    Redeliver(RedeliverArgs),
    /// Put a new secret in the place of its secret, and print it; both sign for a while
    #[command(after_help = "Example:
  hostctl webhooks rotate-secret billing --overlap-seconds 3600")]
    RotateSecret(RotateSecretArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WebhookArgs {
    /// Id or name
    #[arg(value_name = "WEBHOOK")]
    pub id: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeliveriesArgs {
    #[command(flatten)]
    pub webhook: WebhookArgs,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct RedeliverArgs {
    #[command(flatten)]
    pub webhook: WebhookArgs,
    /// Id of the delivery
    #[arg(value_name = "DELIVERY")]
    pub delivery: String,
}

#[derive(Debug, Args)]
pub(crate) struct RotateSecretArgs {
    #[command(flatten)]
    pub webhook: WebhookArgs,
    /// How long the former secret signs along, in seconds; the platform's default is a day
    #[arg(long, value_name = "SECONDS")]
    pub overlap_seconds: Option<u32>,
}
