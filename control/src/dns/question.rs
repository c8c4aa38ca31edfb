//! What a name asks for (contract section 1, Names):
//! `<n|any>.<policy>.<service_name>.<service_ns>.<app_name>.<app_ns>.<zone>`.

use hickory_proto::rr::Name;
use protocol::JobName;

use crate::forwarding::Policy;

/// Label of the zone's name server, which is the gateway.
const NAME_SERVER: &[u8] = b"ns";

/// The label of names that mean instances themselves.
pub const INSTANCE: &str = "instance";

/// What the second label says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Exactly one instance by its number, or each of them.
    Instance(Option<u32>),
    /// The Service IP whose policy picks.
    Service(Policy),
}

fn policy(label: &str) -> Option<Policy> {
    let mut all = Policy::ALL.iter().copied();
    all.find(|policy| policy.name().eq_ignore_ascii_case(label))
}

/// A name of full length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The job, as it was spelled.
    pub job: String,
    /// Which of its addresses.
    pub kind: Kind,
}

/// What a name below the zone asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The zone itself.
    Apex,
    /// Its name server.
    NameServer,
    /// A service or an instance of one.
    Wanted(Wanted),
    /// Fewer labels than a whole name, the job's part of them: it exists where names of a job lie below it.
    Part(Vec<String>),
    /// Nothing that there can be.
    Nothing,
}

/// The number of an instance, written in one way only.
fn number(label: &str) -> Option<u32> {
    let digits = label.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (label == "0" || !label.starts_with('0'));
    plain.then(|| label.parse().ok()).flatten()
}

/// Reads a name; `None` when it does not lie in the zone.
pub fn read(name: &Name, zone: &Name) -> Option<Asked> {
    if !zone.zone_of(name) {
        return None;
    }
    let below = usize::from(name.num_labels()).saturating_sub(usize::from(zone.num_labels()));
    let labels: Vec<&[u8]> = name.iter().take(below).collect();
    match labels.as_slice() {
        [] => return Some(Asked::Apex),
        [only] if only.eq_ignore_ascii_case(NAME_SERVER) => return Some(Asked::NameServer),
        _ => {}
    }
    let text = |label: &[u8]| std::str::from_utf8(label).ok().map(str::to_owned);
    let Some(labels) = labels
        .into_iter()
        .map(text)
        .collect::<Option<Vec<String>>>()
    else {
        return Some(Asked::Nothing);
    };
    Some(match labels.as_slice() {
        [first, label, service, service_ns, app, app_ns] => {
            whole(first, label, &[app, app_ns, service, service_ns])
        }
        // The policy's label exists with the job that has it.
        [label, rest @ ..] if rest.len() == 4 => {
            if label.eq_ignore_ascii_case(INSTANCE) || policy(label).is_some() {
                Asked::Part(rest.to_vec())
            } else {
                Asked::Nothing
            }
        }
        part if part.len() <= 4 => Asked::Part(part.to_vec()),
        _ => Asked::Nothing,
    })
}

fn whole(first: &str, label: &str, [app, app_ns, service, service_ns]: &[&String; 4]) -> Asked {
    let job = format!("{app}.{app_ns}.{service}.{service_ns}");
    if job.parse::<JobName>().is_err() {
        return Asked::Nothing;
    }
    let any = first.eq_ignore_ascii_case("any");
    let kind = if label.eq_ignore_ascii_case(INSTANCE) {
        match number(first) {
            None if !any => return Asked::Nothing,
            number => Kind::Instance(number),
        }
    } else {
        match policy(label) {
            // A policy picks by itself: a number would say whom.
            Some(policy) if any => Kind::Service(policy),
            _ => return Asked::Nothing,
        }
    };
    Asked::Wanted(Wanted { job, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str) -> Option<Asked> {
        let zone = Name::from_ascii("oak.").unwrap();
        read(&Name::from_ascii(name).unwrap(), &zone)
    }

    fn wanted(job: &str, kind: Kind) -> Option<Asked> {
        Some(Asked::Wanted(Wanted {
            job: job.to_owned(),
            kind,
        }))
    }

    #[test]
    fn names_of_the_contract_are_read_in_any_case() {
        let job = "video.prod.detector.default";
        assert_eq!(
            asked("any.closest.detector.default.video.prod.oak."),
            wanted(job, Kind::Service(Policy::Closest))
        );
        assert_eq!(
            asked("ANY.Rr.detector.default.video.prod.OAK."),
            wanted(job, Kind::Service(Policy::RoundRobin))
        );
        assert_eq!(
            asked("0.instance.detector.default.video.prod.oak."),
            wanted(job, Kind::Instance(Some(0)))
        );
        assert_eq!(
            asked("any.underutilized.detector.default.video.prod.oak."),
            wanted(job, Kind::Service(Policy::Underutilized))
        );
        assert_eq!(
            asked("any.instance.detector.default.video.prod.oak."),
            wanted(job, Kind::Instance(None))
        );
    }

    #[test]
    fn what_cannot_be_is_nothing_and_the_rest_is_not_ours() {
        for nothing in [
            "00.instance.a.b.c.d.oak.",
            "4294967296.instance.a.b.c.d.oak.",
            "0.rr.a.b.c.d.oak.",
            "any.best.a.b.c.d.oak.",
            "any.rr.a_.b.c.d.oak.",
            "best.a.b.c.d.oak.",
            "x.any.rr.a.b.c.d.oak.",
        ] {
            assert_eq!(asked(nothing), Some(Asked::Nothing), "{nothing}");
        }
        assert_eq!(asked("oak."), Some(Asked::Apex));
        assert_eq!(asked("ns.oak."), Some(Asked::NameServer));
        assert_eq!(
            asked("rr.a.b.c.d.oak."),
            Some(Asked::Part(vec![
                "a".into(),
                "b".into(),
                "c".into(),
                "d".into()
            ]))
        );
        for other in ["soak.", "oak.example.", "any.rr.a.b.c.d.oaks.", "."] {
            assert_eq!(asked(other), None, "{other}");
        }
    }
}
