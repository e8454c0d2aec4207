//! The fatal TLS alerts that are sent to a client whose connection is refused.
//!
//! Alerts are sent in plain text, which every client can read until it has keys. This module only writes the bytes.
//! The alert of a faulty hello is chosen by [`HelloFault::alert`](super::HelloFault::alert), the alert of any other
//! refusal by the code that refuses.

/// A fatal alert, by its name in RFC 8446, section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Alert {
    /// A record or message is not valid at this point.
    UnexpectedMessage = 10,
    /// A record is longer than the protocol allows.
    RecordOverflow = 22,
    /// No set of parameters is acceptable: the general refusal of a server.
    HandshakeFailure = 40,
    /// A field is well-formed but has a wrong value.
    IllegalParameter = 47,
    /// The hello is valid, but an access rule refuses its source or its name.
    AccessDenied = 49,
    /// A message cannot be parsed, or a length is out of range.
    DecodeError = 50,
    /// The client offers only versions that are refused.
    ProtocolVersion = 70,
    /// The fault is in this program or in a backend, not in the client.
    InternalError = 80,
    /// A required extension is missing, such as the server name (RFC 8446, section 9.2).
    MissingExtension = 109,
    /// No route exists for the server name (RFC 6066, section 3).
    UnrecognizedName = 112,
}

impl Alert {
    /// Returns the alert as one whole record.
    ///
    /// The version in the record is 3.3, as in all records after the first hello, independent of the negotiated
    /// version (RFC 8446, section 5.1). The level is always fatal: the connection is closed after the alert
    /// (RFC 8446, section 6.2).
    pub const fn record(self) -> [u8; 7] {
        const ALERT: u8 = 21;
        const FATAL: u8 = 2;
        [ALERT, 3, 3, 0, 2, FATAL, self as u8]
    }
}

/// Returns the name of an alert that a peer sent, by its number in RFC 8446, section 6, or in the IANA registry.
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

    /// Checks the bytes, and that a rustls client reads them as the alert of that name.
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
