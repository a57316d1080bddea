//! A caller that does not keep to the rules: any certificate, any frames.

use std::net::SocketAddr;
use std::sync::Arc;

use hosting_feed::pki::Authorities;
use hosting_intent::Bytes;
use hosting_intent_sync::identity::Identity;
use hosting_intent_sync::tls;
use hosting_proto::feed::intent_feed_client::IntentFeedClient;
use hosting_proto::feed::{Ack, Cursor, Down, Hello, Up, down, up};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

pub fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

/// A channel with a certificate for `node` of that life, or with none.
pub async fn channel(
    address: SocketAddr,
    authorities: &Authorities,
    node: Option<(&str, i64, i64)>,
) -> Result<Channel, tonic::transport::Error> {
    channel_of(address, authorities, authorities, node).await
}

/// A channel of an enrolled node, as it is now.
pub async fn channel_as(address: SocketAddr, identity: &Identity) -> Channel {
    connect(address, identity.client_config().unwrap(), identity.cell()).await.unwrap()
}

/// One that trusts `authorities` and shows a certificate of `issuer`.
pub async fn channel_of(
    address: SocketAddr,
    authorities: &Authorities,
    issuer: &Authorities,
    node: Option<(&str, i64, i64)>,
) -> Result<Channel, tonic::transport::Error> {
    let roots = authorities.roots_der();
    let roots = tls::root_store(roots.iter().map(Vec::as_slice)).unwrap();
    let builder = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match node {
        None => builder.with_no_client_auth(),
        Some((node, from, to)) => {
            let key = KeyPair::generate().unwrap();
            let der = issuer.issue_node_between(node, None, &csr(&key), from, to).unwrap();
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            builder.with_client_auth_cert(vec![CertificateDer::from(der.to_vec())], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    connect(address, config, authorities.cell()).await
}

async fn connect(
    address: SocketAddr,
    config: ClientConfig,
    cell: &str,
) -> Result<Channel, tonic::transport::Error> {
    let config = Arc::new(config);
    let name = ServerName::try_from(tls::controller_name(cell)).unwrap();
    let connector = tower::service_fn(move |_| {
        let (config, name) = (Arc::clone(&config), name.clone());
        async move {
            let tcp = TcpStream::connect(address).await?;
            TlsConnector::from(config).connect(name, tcp).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://controller").connect_with_connector(connector).await
}

pub struct Raw {
    pub up: mpsc::Sender<Up>,
    pub down: Streaming<Down>,
}

impl Raw {
    /// Says Hello; the refusal, if there is one, is the first thing to come back.
    pub async fn open(channel: Channel, audience: &str, cursor: Option<(&str, u64)>) -> Result<Self, Status> {
        Self::open_with(channel, audience, cursor, Bytes::new()).await
    }

    /// With a word of the controller.
    pub async fn open_with(
        channel: Channel,
        audience: &str,
        cursor: Option<(&str, u64)>,
        witness: Bytes,
    ) -> Result<Self, Status> {
        let hello = Hello {
            build: "raw".into(),
            kinds: vec![3],
            audience: audience.to_owned(),
            cursor: cursor.map(|(epoch, revision)| Cursor { epoch: epoch.to_owned(), revision }),
            witness,
            sealing_key: Bytes::new(),
        };
        Self::say(channel, hello).await
    }

    /// With a public key to which the audience's keys are to be sealed.
    pub async fn open_reading(channel: Channel, audience: &str, sealing_key: Bytes) -> Result<Self, Status> {
        Self::say(channel, Hello { audience: audience.to_owned(), sealing_key, ..Hello::default() }).await
    }

    async fn say(channel: Channel, hello: Hello) -> Result<Self, Status> {
        let (up, ups) = mpsc::channel(64);
        up.send(Up { frame: Some(up::Frame::Hello(hello)) }).await.unwrap();
        let mut client = IntentFeedClient::new(channel).max_decoding_message_size(8 << 20);
        let down = client.subscribe(ReceiverStream::new(ups)).await?.into_inner();
        Ok(Self { up, down })
    }

    pub async fn next(&mut self) -> Result<Option<down::Frame>, Status> {
        Ok(self.down.message().await?.and_then(|frame| frame.frame))
    }

    pub async fn ack(&self, epoch: &str, applied: u64) {
        let ack = Ack { epoch: epoch.to_owned(), applied, durable: applied, ..Ack::default() };
        let _ = self.up.send(Up { frame: Some(up::Frame::Ack(ack)) }).await;
    }
}
