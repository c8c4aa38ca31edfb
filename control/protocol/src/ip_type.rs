//! What an address of a service means: which policy picks the instance behind it.

use serde::{Deserialize, Serialize};

/// The `IpType` of an entry in a service's address lists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum IpType {
    /// `RR`: instances take turns.
    RoundRobin,
    /// `Closest`: the instance that answers fastest.
    Closest,
    /// `Underutilized`: the instance with the fewest flows.
    Underutilized,
    /// `InstanceNumber`: exactly one instance. Means the same as [`IpType::InstanceIp`].
    InstanceNumber,
    /// `instance_ip`: exactly one instance, as the reference writes it.
    InstanceIp,
    /// A type that we do not know; kept as it came.
    Other(String),
}

impl IpType {
    /// The text on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::RoundRobin => "RR",
            Self::Closest => "Closest",
            Self::Underutilized => "Underutilized",
            Self::InstanceNumber => "InstanceNumber",
            Self::InstanceIp => "instance_ip",
            Self::Other(text) => text,
        }
    }

    /// Whether the address belongs to exactly one instance (either of the twins).
    #[must_use]
    pub fn is_instance(&self) -> bool {
        matches!(self, Self::InstanceNumber | Self::InstanceIp)
    }
}

impl From<String> for IpType {
    fn from(text: String) -> Self {
        match text.as_str() {
            "RR" => Self::RoundRobin,
            "Closest" => Self::Closest,
            "Underutilized" => Self::Underutilized,
            "InstanceNumber" => Self::InstanceNumber,
            "instance_ip" => Self::InstanceIp,
            _ => Self::Other(text),
        }
    }
}

impl From<IpType> for String {
    fn from(value: IpType) -> Self {
        match value {
            IpType::Other(text) => text,
            known => known.as_str().to_owned(),
        }
    }
}

impl std::fmt::Display for IpType {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_the_wire() {
        for text in [
            "RR",
            "Closest",
            "Underutilized",
            "InstanceNumber",
            "instance_ip",
            "Future",
        ] {
            let json = format!("\"{text}\"");
            let value: IpType = serde_json::from_str(&json).unwrap();
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
        }
        assert!(IpType::InstanceIp.is_instance() && IpType::InstanceNumber.is_instance());
        assert!(!IpType::Other("Future".into()).is_instance());
    }
}
