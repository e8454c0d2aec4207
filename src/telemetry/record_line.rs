//! The line of a record in each form of the access log.

use super::haproxy_line::{self, HaproxyLayout};
use super::line::{AccessLogFormat, KeyedForm};
use super::record::AccessRecord;

impl AccessRecord {
    /// Appends the record to `out`, without a line end. The line is printable ASCII, and no value of a peer ends a field or
    /// the line.
    pub fn write(&self, format: AccessLogFormat, out: &mut Vec<u8>) {
        match format {
            AccessLogFormat::Json => self.write_keyed(KeyedForm::Json, out),
            AccessLogFormat::Text => self.write_keyed(KeyedForm::Text, out),
            AccessLogFormat::Tcplog => haproxy_line::write(self, HaproxyLayout::Tcp, out),
            AccessLogFormat::Httplog => haproxy_line::write(self, HaproxyLayout::Http, out),
        }
    }
}
