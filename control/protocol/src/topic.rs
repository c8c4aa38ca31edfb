//! MQTT topics (contract section 3): written by functions, read by one parser.

/// Topics of one node, by their last part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeTopic {
    /// `net/subnet`, node → cluster.
    Subnet,
    /// `net/subnetwork/result`, cluster → node.
    SubnetResult,
    /// `net/tablequery/request`, node → cluster.
    TableQuery,
    /// `net/tablequery/result`, cluster → node.
    TableQueryResult,
    /// `net/service/deployed`, node → cluster.
    Deployed,
    /// `net/service/undeployed`, node → cluster.
    Undeployed,
    /// `net/service/address-changed`, node → cluster.
    AddressChanged,
    /// `net/interest/remove`, node → cluster.
    InterestRemove,
    /// `net/load`, node → cluster (**new**).
    Load,
    /// `net/host/request`, node → cluster (**new**).
    HostRequest,
    /// `net/host/result`, cluster → node (**new**).
    HostResult,
    /// `net/status`, node → cluster, retained (**new**).
    Status,
    /// `information`, NodeEngine → cluster: a sign of life.
    Information,
}

impl NodeTopic {
    /// Every topic.
    pub const ALL: [Self; 13] = [
        Self::Subnet,
        Self::SubnetResult,
        Self::TableQuery,
        Self::TableQueryResult,
        Self::Deployed,
        Self::Undeployed,
        Self::AddressChanged,
        Self::InterestRemove,
        Self::Load,
        Self::HostRequest,
        Self::HostResult,
        Self::Status,
        Self::Information,
    ];

    /// What a cluster manager subscribes to: never its own answers.
    pub const FROM_NODE: [Self; 10] = [
        Self::Subnet,
        Self::TableQuery,
        Self::Deployed,
        Self::Undeployed,
        Self::AddressChanged,
        Self::InterestRemove,
        Self::Load,
        Self::HostRequest,
        Self::Status,
        Self::Information,
    ];

    /// What a node subscribes to.
    pub const TO_NODE: [Self; 3] = [Self::SubnetResult, Self::TableQueryResult, Self::HostResult];

    /// The part behind `nodes/<id>/`.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Subnet => "net/subnet",
            Self::SubnetResult => "net/subnetwork/result",
            Self::TableQuery => "net/tablequery/request",
            Self::TableQueryResult => "net/tablequery/result",
            Self::Deployed => "net/service/deployed",
            Self::Undeployed => "net/service/undeployed",
            Self::AddressChanged => "net/service/address-changed",
            Self::InterestRemove => "net/interest/remove",
            Self::Load => "net/load",
            Self::HostRequest => "net/host/request",
            Self::HostResult => "net/host/result",
            Self::Status => "net/status",
            Self::Information => "information",
        }
    }

    /// The topic of one node.
    #[must_use]
    pub fn of(self, node_id: &str) -> String {
        format!("nodes/{node_id}/{}", self.suffix())
    }

    /// The filter for every node: `nodes/+/…`.
    #[must_use]
    pub fn of_every_node(self) -> String {
        self.of("+")
    }
}

/// A topic, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic<'a> {
    /// `nodes/<node_id>/…`.
    Node {
        /// The node's client id.
        node_id: &'a str,
        /// Which of its topics.
        topic: NodeTopic,
    },
    /// `jobs/<job>/updates_available`. A reference node also uses addresses for the job.
    UpdatesAvailable {
        /// The job's name, or an address.
        job: &'a str,
    },
}

impl<'a> Topic<'a> {
    /// Reads a topic; `None` when it is none of the contract's.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix("nodes/") {
            let (node_id, suffix) = rest.split_once('/')?;
            let topic = NodeTopic::ALL
                .into_iter()
                .find(|topic| topic.suffix() == suffix)?;
            return (!node_id.is_empty()).then_some(Self::Node { node_id, topic });
        }
        let job = text
            .strip_prefix("jobs/")?
            .strip_suffix("/updates_available")?;
        (!job.is_empty() && !job.contains('/')).then_some(Self::UpdatesAvailable { job })
    }
}

/// `jobs/<job>/updates_available`.
#[must_use]
pub fn updates_available(job: &str) -> String {
    format!("jobs/{job}/updates_available")
}

/// Whether a text can stand in a topic as a node's id: not empty, no `/`, `+`, `#` or NUL.
#[must_use]
pub fn is_valid_node_id(node_id: &str) -> bool {
    !node_id.is_empty() && !node_id.contains(['/', '+', '#', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_is_read_as_it_was_written() {
        for topic in NodeTopic::ALL {
            let text = topic.of("n1");
            assert_eq!(
                Topic::parse(&text),
                Some(Topic::Node {
                    node_id: "n1",
                    topic
                })
            );
        }
        assert_eq!(
            Topic::parse(&updates_available("a.b.c.d")),
            Some(Topic::UpdatesAvailable { job: "a.b.c.d" })
        );
        for other in [
            "nodes/n1/net/x",
            "nodes//net/subnet",
            "jobs//updates_available",
            "x",
            "",
        ] {
            assert_eq!(Topic::parse(other), None, "{other}");
        }
    }

    #[test]
    fn subscriptions_never_match_our_own_answers() {
        for from in NodeTopic::FROM_NODE {
            assert!(!NodeTopic::TO_NODE.contains(&from));
        }
    }
}
