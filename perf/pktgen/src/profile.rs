//! What to send, as an operator writes it down: a TOML file, and words on the command line that override it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use net::Address;
use serde::{Deserialize, Serialize};

use crate::frame::{self, FCS, Kind};
use crate::pace::Rate;

/// A traffic profile.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Profile {
    /// A line for people.
    #[serde(default)]
    pub description: String,
    /// What the flows are.
    pub protocol: Kind,
    /// Flows at a time.
    pub flows: u32,
    /// Flows a second that give way to new ones.
    #[serde(default)]
    pub new_flows: u32,
    /// Which flow is next.
    #[serde(default)]
    pub order: Order,
    /// What random choices follow from.
    #[serde(default = "one")]
    pub seed: u64,
    /// How fast.
    pub rate: Speed,
    /// Seconds before anything counts.
    #[serde(default)]
    pub warm_up: f64,
    /// Seconds that count.
    #[serde(default = "ten")]
    pub duration: f64,
    /// Bytes of an IP packet that the path takes.
    #[serde(default = "ethernet")]
    pub mtu: u16,
    /// Frame sizes, check sequence included.
    pub size: Size,
    /// Where packets come from.
    pub source: Source,
    /// Where they go.
    pub destination: Destination,
}

const fn one() -> u64 {
    1
}

const fn ten() -> f64 {
    10.0
}

const fn ethernet() -> u16 {
    1500
}

/// Which flow is next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// One after another.
    #[default]
    RoundRobin,
    /// Any.
    Random,
}

/// Sources of flows: each address with each port.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The first address.
    pub address: IpAddr,
    /// Addresses, from the first on.
    #[serde(default = "single")]
    pub count: u32,
    /// The first port and the last.
    #[serde(default = "unprivileged")]
    pub ports: (u16, u16),
}

/// Destinations: an address is a service.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// The first address.
    pub address: IpAddr,
    /// Addresses, from the first on.
    #[serde(default = "single")]
    pub count: u32,
    /// The first port and the last.
    pub ports: (u16, u16),
    /// How unequal they are: service number r gets a share of flows proportional to 1 / r^zipf. Absent or 0: equal.
    #[serde(default)]
    pub zipf: f64,
}

const fn single() -> u32 {
    1
}

const fn unprivileged() -> (u16, u16) {
    (1024, 65_535)
}

/// Frame sizes, check sequence included.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a size is a number (64), a list ([64, 1518]), \"imix\", or { from = 64, to = 1518 }"
)]
pub enum Size {
    /// All the same.
    One(u32),
    /// One after another.
    List(Vec<u32>),
    /// By name.
    Named(Mix),
    /// Any in between, evenly.
    #[serde(rename_all = "kebab-case")]
    Range {
        /// The smallest.
        from: u32,
        /// The largest.
        to: u32,
    },
}

/// Mixes of sizes with a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// Seven frames of 64 bytes, four of 594, one of 1518 (or what the MTU allows).
    Imix,
}

/// A rate with its text.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Speed(pub Rate);

/// Why a profile is none.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file.
    #[error("cannot read {0}: {1}; profiles lie in perf/profiles")]
    Read(PathBuf, std::io::Error),
    /// Its text.
    #[error("{0} is no profile: {1}")]
    Parse(PathBuf, toml::de::Error),
    /// A rate.
    #[error(
        "{0:?} is no rate: write max, 200kpps, 1.5Mpps, 1Gbps (whole frames) or 1Gbps-l1 (with preamble and gap)"
    )]
    Rate(String),
    /// A size.
    #[error("{0:?} are no frame sizes: write 64, 64,594,1518, 64-1518 or imix")]
    Size(String),
    /// A field.
    #[error("{field} is {value}: {remedy}")]
    Field {
        /// Its name.
        field: &'static str,
        /// As given.
        value: String,
        /// What would do.
        remedy: String,
    },
}

fn wrong(field: &'static str, value: impl fmt::Display, remedy: impl Into<String>) -> ProfileError {
    ProfileError::Field {
        field,
        value: value.to_string(),
        remedy: remedy.into(),
    }
}

impl FromStr for Speed {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        let error = || ProfileError::Rate(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        if lower == "max" {
            return Ok(Self(Rate::Max));
        }
        let split = lower
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .ok_or_else(error)?;
        let (number, unit) = lower.split_at_checked(split).ok_or_else(error)?;
        let number: f64 = number.parse().map_err(|_| error())?;
        let (factor, unit) = match unit.as_bytes().first() {
            Some(b'k') => (1e3, unit.get(1..)),
            Some(b'm') => (1e6, unit.get(1..)),
            Some(b'g') => (1e9, unit.get(1..)),
            _ => (1.0, Some(unit)),
        };
        let rate = number * factor;
        // Slower than one packet an hour is a slip of the pen.
        if !(rate > 1e-3 && rate < 1e13) {
            return Err(error());
        }
        Ok(Self(match unit {
            Some("pps") => Rate::Packets(rate),
            Some("bps" | "bps-l2") => Rate::Layer2(rate),
            Some("bps-l1") => Rate::Layer1(rate),
            _ => return Err(error()),
        }))
    }
}

impl TryFrom<String> for Speed {
    type Error = ProfileError;

    fn try_from(text: String) -> Result<Self, ProfileError> {
        text.parse()
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            Rate::Max => return f.write_str("max"),
            Rate::Packets(value) => (value, "pps"),
            Rate::Layer2(value) => (value, "bps"),
            Rate::Layer1(value) => (value, "bps-l1"),
        };
        let (value, prefix) = match value {
            value if value >= 1e9 => (value / 1e9, "G"),
            value if value >= 1e6 => (value / 1e6, "M"),
            value if value >= 1e3 => (value / 1e3, "k"),
            value => (value, ""),
        };
        write!(f, "{value}{prefix}{unit}")
    }
}

impl FromStr for Size {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        let error = || ProfileError::Size(text.to_owned());
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| error());
        if text.eq_ignore_ascii_case("imix") {
            Ok(Self::Named(Mix::Imix))
        } else if let Some((from, to)) = text.split_once('-') {
            Ok(Self::Range {
                from: number(from)?,
                to: number(to)?,
            })
        } else if text.contains(',') {
            Ok(Self::List(
                text.split(',').map(number).collect::<Result<_, _>>()?,
            ))
        } else {
            Ok(Self::One(number(text)?))
        }
    }
}

/// IMIX, spread so that no two large frames follow one another.
const IMIX: [u32; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64];

/// Sizes that come one after another, or any in between.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sizes {
    /// In this order, over and over.
    Cycle(Box<[u32]>),
    /// Evenly, both ends included.
    Between(u32, u32),
}

impl Sizes {
    /// The largest.
    #[must_use]
    pub fn largest(&self) -> u32 {
        match self {
            Self::Cycle(sizes) => sizes.iter().copied().max().unwrap_or(0),
            Self::Between(_, to) => *to,
        }
    }

    /// Bytes of a frame on average.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match self {
            Self::Cycle(sizes) => {
                let total: f64 = sizes.iter().copied().map(f64::from).sum();
                let count = u32::try_from(sizes.len()).unwrap_or(u32::MAX).max(1);
                total / f64::from(count)
            }
            Self::Between(from, to) => f64::midpoint(f64::from(*from), f64::from(*to)),
        }
    }
}

impl Profile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is no profile: with the line.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ProfileError::Read(path.to_owned(), error))?;
        Self::parse(&text, path)
    }

    /// Reads a text that came from `path`.
    ///
    /// # Errors
    /// When it is no profile.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ProfileError> {
        toml::from_str(text).map_err(|error| ProfileError::Parse(path.to_owned(), error))
    }

    /// Whether it speaks IPv6.
    #[must_use]
    pub const fn is_v6(&self) -> bool {
        self.source.address.is_ipv6()
    }

    /// Different 5-tuples to one service.
    #[must_use]
    pub fn tuples(&self) -> u64 {
        ports(self.source.ports) * u64::from(self.source.count) * ports(self.destination.ports)
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// The first field that cannot be as it is, and what would do.
    pub fn check(&self) -> Result<Sizes, ProfileError> {
        if self.source.address.is_ipv6() != self.destination.address.is_ipv6() {
            return Err(wrong(
                "destination.address",
                self.destination.address,
                format!(
                    "give one of the family of the source, {}",
                    self.source.address
                ),
            ));
        }
        for (field, address, count) in [
            ("source.count", self.source.address, self.source.count),
            (
                "destination.count",
                self.destination.address,
                self.destination.count,
            ),
        ] {
            let last = Address::from(address)
                .0
                .checked_add(u128::from(count.saturating_sub(1)));
            let fits = last.is_some_and(|last| Address(last).is_v4() == address.is_ipv4());
            if count == 0 || !fits || count > 1 << 24 {
                return Err(wrong(
                    field,
                    count,
                    "give 1 to 16777216 addresses that exist",
                ));
            }
        }
        for (field, (first, last)) in [
            ("source.ports", self.source.ports),
            ("destination.ports", self.destination.ports),
        ] {
            if first == 0 || first > last {
                let value = format!("[{first}, {last}]");
                return Err(wrong(
                    field,
                    value,
                    "give [first, last], both from 1 to 65535",
                ));
            }
        }
        if self.flows == 0 || u64::from(self.flows) > self.tuples().min(1 << 28) {
            let remedy = format!(
                "give 1 to {}, or more source addresses or ports (source.count, source.ports, destination.ports)",
                self.tuples().min(1 << 28)
            );
            return Err(wrong("flows", self.flows, remedy));
        }
        for (field, value, least) in [
            ("warm-up", self.warm_up, 0.0),
            ("duration", self.duration, 1e-3),
        ] {
            // What the schedule's 64 bits hold is 78 hours.
            if !(value >= least && value <= 250_000.0) {
                return Err(wrong(
                    field,
                    value,
                    format!("give {least} to 250000 seconds"),
                ));
            }
        }
        if !(0.0..=10.0).contains(&self.destination.zipf) {
            return Err(wrong(
                "destination.zipf",
                self.destination.zipf,
                "give 0 to 10",
            ));
        }
        let segments = self.protocol != Kind::Udp;
        if segments && self.new_flows > 0 {
            let remedy = "leave it out: each SYN is a new flow";
            return Err(wrong("new-flows", self.new_flows, remedy));
        }
        if self.protocol == Kind::TcpFlow && self.order == Order::Random {
            let remedy = "give \"round-robin\": a flow opens before it closes";
            return Err(wrong("order", "random", remedy));
        }
        if !(576..=9600).contains(&self.mtu) || (self.is_v6() && self.mtu < 1280) {
            return Err(wrong(
                "mtu",
                self.mtu,
                "give 576 to 9600, and at least 1280 for IPv6",
            ));
        }
        self.sizes()
    }

    fn sizes(&self) -> Result<Sizes, ProfileError> {
        let (least, most) = (
            frame::least(self.protocol, self.is_v6()),
            u32::from(self.mtu) + 14 + FCS,
        );
        let fits = |size: u32| {
            if (least..=most).contains(&size) {
                return Ok(size);
            }
            let remedy = format!("give {least} (headers and stamp) to {most} (MTU and Ethernet)");
            Err(wrong("size", size, remedy))
        };
        if self.protocol != Kind::Udp {
            let with = frame::syn_with_options(self.is_v6());
            return match &self.size {
                Size::One(size) if *size == least || *size == with => {
                    Ok(Sizes::Cycle([*size].into()))
                }
                other => Err(wrong(
                    "size",
                    format!("{other:?}"),
                    format!(
                        "give {least} (no options, no latency) or {with}: a segment carries no data"
                    ),
                )),
            };
        }
        match &self.size {
            Size::One(size) => Ok(Sizes::Cycle([fits(*size)?].into())),
            Size::List(sizes) if sizes.is_empty() => Err(wrong("size", "[]", "give at least one")),
            Size::List(sizes) => Ok(Sizes::Cycle(
                sizes.iter().copied().map(fits).collect::<Result<_, _>>()?,
            )),
            Size::Named(Mix::Imix) => Ok(Sizes::Cycle(
                IMIX.map(|size| size.clamp(least, most)).into(),
            )),
            Size::Range { from, to } if from > to => Err(wrong(
                "size.from",
                from,
                format!("give at most size.to, {to}"),
            )),
            Size::Range { from, to } => Ok(Sizes::Between(fits(*from)?, fits(*to)?)),
        }
    }
}

/// How many there are from first to last.
#[must_use]
pub fn ports((first, last): (u16, u16)) -> u64 {
    (u64::from(last) + 1).saturating_sub(u64::from(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        protocol = "udp"
        flows = 1000
        rate = "200kpps"
        size = "imix"
        source = { address = "10.0.0.2" }
        destination = { address = "10.30.0.1", count = 10, ports = [50000, 50000], zipf = 1.1 }
    "#;

    fn parse(text: &str) -> Result<Profile, ProfileError> {
        Profile::parse(text, Path::new("test.toml"))
    }

    fn changed(from: &str, to: &str) -> String {
        assert!(TEXT.contains(from));
        match parse(&TEXT.replace(from, to)).and_then(|profile| profile.check().map(drop)) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_profile_is_read_with_its_defaults() {
        let profile = parse(TEXT).expect("it is valid");
        assert_eq!((profile.mtu, profile.seed, profile.new_flows), (1500, 1, 0));
        assert_eq!(profile.source.ports, (1024, 65_535));
        assert_eq!(profile.rate, Speed(Rate::Packets(200_000.0)));
        let sizes = profile.check().expect("it is valid");
        assert_eq!(sizes.largest(), 1518);
        assert!((sizes.mean() - (7.0 * 64.0 + 4.0 * 594.0 + 1518.0) / 12.0).abs() < 1e-9);
    }

    #[test]
    fn sizes_follow_the_mtu_and_the_headers() {
        let imix = |text: &str| parse(text).expect("parses").check().expect("valid");
        assert_eq!(
            imix(&TEXT.replace("rate", "mtu = 1450\nrate")).largest(),
            1468
        );
        let v6 = TEXT
            .replace("10.0.0.2", "fd00::2")
            .replace("10.30.0.1", "fd00:1::1");
        let Sizes::Cycle(sizes) = imix(&v6) else {
            panic!("a cycle")
        };
        assert_eq!(sizes.iter().min(), Some(&84));
        for (size, largest) in [
            ("64", 64),
            ("[64, 128]", 128),
            ("{ from = 70, to = 90 }", 90),
        ] {
            assert_eq!(imix(&TEXT.replace("\"imix\"", size)).largest(), largest);
        }
    }

    #[test]
    fn mistakes_name_their_remedy() {
        assert_eq!(changed("1000", "1000"), "");
        for (from, to, says) in [
            ("flows = 1000", "flows = 100000", "source.count"),
            ("flows = 1000", "flows = 0", "1 to 64512"),
            ("flows = 1000", "flow = 1000", "unknown field `flow`"),
            ("200kpps", "200k", "1.5Mpps"),
            ("\"200kpps\"", "\"0pps\"", "no rate"),
            ("\"imix\"", "63", "64 (headers and stamp) to 1518"),
            ("\"imix\"", "1519", "to 1518"),
            ("\"imix\"", "\"mix\"", "a size is a number"),
            ("\"imix\"", "[]", "at least one"),
            ("10.30.0.1", "fd00::1", "family"),
            ("count = 10", "count = 0", "1 to 16777216"),
            ("10.30.0.1", "255.255.255.250", "that exist"),
            ("[50000, 50000]", "[50001, 50000]", "[first, last]"),
            ("zipf = 1.1", "zipf = -1.0", "0 to 10"),
            ("\"udp\"", "\"tcp-syn\"", "a segment carries no data"),
            ("rate", "duration = 0.0\nrate", "seconds"),
        ] {
            let said = changed(from, to);
            assert!(said.contains(says), "{from} -> {to}: {said:?}");
        }
        let missing = Profile::read(Path::new("/nonexistent.toml")).expect_err("there is none");
        assert!(missing.to_string().contains("perf/profiles"));
    }

    #[test]
    fn rates_and_sizes_are_read_back() {
        for text in ["max", "200kpps", "1.5Mpps", "10Gbps", "2.5Gbps-l1", "7pps"] {
            assert_eq!(text.parse::<Speed>().expect("valid").to_string(), text);
        }
        for text in [
            "", "5", "pps", "1.2.3pps", "-1pps", "5xpps", "NaNpps", "1e9pps",
        ] {
            assert!(text.parse::<Speed>().is_err(), "{text}");
        }
        assert_eq!(
            "64-128".parse::<Size>().expect("valid"),
            Size::Range { from: 64, to: 128 }
        );
        assert_eq!(
            "64,128".parse::<Size>().expect("valid"),
            Size::List(vec![64, 128])
        );
        assert_eq!(
            "imix".parse::<Size>().expect("valid"),
            Size::Named(Mix::Imix)
        );
        assert!("big".parse::<Size>().is_err());
    }
}
