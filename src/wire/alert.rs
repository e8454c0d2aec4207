//! The fatal TLS alerts that tell a client why its connection ends before a backend ever saw it.
//!
//! Alerts are sent in plain text, which every client reads until it has keys. This module only makes the
//! bytes: a fault of the hello names its alert itself, and what is refused for other reasons gets its alert
//! from whoever refuses.

/// A fatal alert, by its name in RFC 8446, section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Alert {
    /// A record or message that cannot stand at this place.
    UnexpectedMessage = 10,
    /// A record longer than the protocol allows.
    RecordOverflow = 22,
    /// No acceptable set of parameters: the general "no" of a server.
    HandshakeFailure = 40,
    /// A field that reads well but is wrong.
    IllegalParameter = 47,
    /// A valid hello that the rules refuse: a source or a name that is not let in.
    AccessDenied = 49,
    /// A message that cannot be read, or a length that is out of range.
    DecodeError = 50,
    /// The client offers only versions that are refused here.
    ProtocolVersion = 70,
    /// A fault of ours, or of a backend: nothing the client did.
    InternalError = 80,
    /// An extension is not there that must be, such as the server name (RFC 8446, section 9.2).
    MissingExtension = 109,
    /// Nobody here answers to the server name (RFC 6066, section 3).
    UnrecognizedName = 112,
}

impl Alert {
    /// The alert as one whole record, ready to be sent.
    ///
    /// The record says version 3.3, as all records after the first hello do whatever version is spoken
    /// (RFC 8446, section 5.1), and the level is always fatal: the connection is closed behind it
    /// (RFC 8446, section 6.2).
    pub const fn record(self) -> [u8; 7] {
        const ALERT: u8 = 21;
        const FATAL: u8 = 2;
        [ALERT, 3, 3, 0, 2, FATAL, self as u8]
    }
}

/// The name of an alert that a peer sent, by its number in RFC 8446, section 6, and the registry behind it.
pub const fn name(code: u8) -> &'static str {
    match code {
        0 => "close notify",
        10 => "unexpected message",
        20 => "bad record MAC",
        22 => "record overflow",
        40 => "handshake failure",
        42 => "bad certificate",
        43 => "unsupported certificate",
        46 => "certificate unknown",
        47 => "illegal parameter",
        48 => "unknown CA",
        49 => "access denied",
        50 => "decode error",
        51 => "decrypt error",
        70 => "protocol version",
        71 => "insufficient security",
        80 => "internal error",
        86 => "inappropriate fallback",
        90 => "user canceled",
        109 => "missing extension",
        110 => "unsupported extension",
        112 => "unrecognized name",
        116 => "certificate required",
        120 => "no application protocol",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, Error};

    use super::*;

    /// Checks the bytes, and that rustls as the client reads them as the alert of that name.
    #[track_caller]
    fn check(alert: Alert, code: u8, name: AlertDescription) {
        assert_eq!(alert.record(), [21, 3, 3, 0, 2, 2, code]);
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let server = rustls::pki_types::ServerName::try_from("mail.example.com").unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), server).unwrap();
        client.read_tls(&mut alert.record().as_slice()).unwrap();
        assert_eq!(client.process_new_packets().unwrap_err(), Error::AlertReceived(name));
    }

    #[test]
    fn records_are_understood() {
        check(Alert::UnexpectedMessage, 10, AlertDescription::UnexpectedMessage);
        check(Alert::RecordOverflow, 22, AlertDescription::RecordOverflow);
        check(Alert::HandshakeFailure, 40, AlertDescription::HandshakeFailure);
        check(Alert::IllegalParameter, 47, AlertDescription::IllegalParameter);
        check(Alert::AccessDenied, 49, AlertDescription::AccessDenied);
        check(Alert::DecodeError, 50, AlertDescription::DecodeError);
        check(Alert::ProtocolVersion, 70, AlertDescription::ProtocolVersion);
        check(Alert::InternalError, 80, AlertDescription::InternalError);
        check(Alert::MissingExtension, 109, AlertDescription::MissingExtension);
        check(Alert::UnrecognizedName, 112, AlertDescription::UnrecognisedName);
    }

    #[test]
    fn alerts_have_names() {
        let named = (0..=u8::MAX).filter(|&code| name(code) != "unknown").count();
        assert_eq!(named, 23);
        assert_eq!(name(Alert::UnrecognizedName as u8), "unrecognized name");
    }
}
