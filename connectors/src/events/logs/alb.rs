//! Access logs of AWS load balancers: ALB (`http 2018-07-02T22:23:00.186641Z app/my-lb ..`) and classic ELB.

use std::sync::LazyLock;

use super::layout::{Layout, Token};
use super::line::{Field, LogLine};
use super::nginx;

/// ALB; fields behind the agent came over the years.
const ALB: &str = "$type $time_iso8601 $elb $remote_addr:$client_port $target $request_processing_time \
    $target_processing_time $response_processing_time $status $target_status $received_bytes $body_bytes_sent \
    \"$request\" \"$http_user_agent\" $ssl_cipher $ssl_protocol $target_group_arn \"$trace_id\" \"$domain_name\" \
    \"$chosen_cert_arn\" $matched_rule_priority $request_creation_time \"$actions_executed\" \"$redirect_url\" \
    \"$error_reason\" \"$target_port_list\" \"$target_status_code_list\" \"$classification\" \"$classification_reason\"";
const ALB_OPTIONAL: usize = 15;

/// The classic load balancer; older lines end behind the request.
const ELB: &str = "$time_iso8601 $elb $remote_addr:$client_port $target $request_processing_time \
    $target_processing_time $response_processing_time $status $target_status $received_bytes $body_bytes_sent \
    \"$request\" \"$http_user_agent\" $ssl_cipher $ssl_protocol";
const ELB_OPTIONAL: usize = 13;

static LAYOUTS: LazyLock<[Layout; 2]> = LazyLock::new(|| {
    [(ALB, ALB_OPTIONAL), (ELB, ELB_OPTIONAL)].map(|(format, optional)| {
        let tokens: Vec<Token> = nginx::tokens(format).expect("a format of this module");
        Layout::new(format, tokens).expect("a format of this module").ending_from(optional)
    })
});

/// Reads a line; `None` if it does not match.
pub(super) fn read<'a>(line: &'a str, out: &mut LogLine<'a>) -> Option<&'static str> {
    let [alb, elb] = &*LAYOUTS;
    let name = if line.starts_with(|first: char| first.is_ascii_digit()) {
        elb.read(line, out)?;
        "AWS ELB log"
    } else {
        alb.read(line, out)?;
        "AWS ALB log"
    };
    if let std::borrow::Cow::Borrowed(request) = out.request
        && let Some((method, target, protocol)) = parts(request)
    {
        let (host, target) = of_url(target);
        out.request = "".into();
        out.set(&Field::Method, method.into());
        out.set(&Field::Target, target.into());
        out.set(&Field::Protocol, protocol.into());
        out.keep("host".into(), host.into());
    }
    Some(name)
}

/// Method, URL and protocol.
fn parts(request: &str) -> Option<(&str, &str, &str)> {
    let (method, rest) = request.split_once(' ')?;
    let (target, protocol) = rest.rsplit_once(' ')?;
    protocol.starts_with("HTTP/").then_some((method, target, protocol))
}

/// Host and target of a URL; a target that is none stays.
fn of_url(url: &str) -> (&str, &str) {
    let Some((_, rest)) = url.split_once("://").filter(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphabetic()))
    else {
        return ("", url);
    };
    let (host, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    (host, if target.is_empty() { "/" } else { target })
}
