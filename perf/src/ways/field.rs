//! All peers of a comparison under the same settings, side by side, each in namespaces of its own.

use anyhow::{Context as _, Result, bail};
use journeys::run::Run;
use journeys::services::Programs;

use super::laid::{Awake, Laid};
use super::ours::Ours;
use super::settings::{Nodes, Settings};
use super::way::Means;
use super::{floor, kernel, ours, ovs, testpmd};

/// Somebody who can be laid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// This project.
    Ours,
    /// nftables and VXLAN.
    Kernel,
    /// The same with receive packet steering.
    Steered,
    /// `dpdk-testpmd` on `af_packet`.
    Testpmd,
    /// A TUN and a UDP socket, packet by packet.
    Floor,
    /// Open vSwitch with DPDK.
    Ovs,
}

/// Everybody.
pub const PEERS: [Peer; 6] = [
    Peer::Ours,
    Peer::Kernel,
    Peer::Steered,
    Peer::Testpmd,
    Peer::Floor,
    Peer::Ovs,
];

impl Peer {
    /// As results name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Peer::Ours => ours::NAME,
            Peer::Kernel => kernel::NAME,
            Peer::Steered => kernel::STEERED,
            Peer::Testpmd => testpmd::NAME,
            Peer::Floor => floor::NAME,
            Peer::Ovs => ovs::NAME,
        }
    }
}

/// What stands.
pub struct Field {
    peers: Vec<Laid>,
    // After the peers: it takes all down.
    ground: Ground,
}

/// What owns the run. Ours has one of its own.
enum Ground {
    Ours(Box<Ours>),
    Bare(Run, Programs),
}

impl Ground {
    fn means(&self) -> Means<'_> {
        match self {
            Ground::Ours(ours) => ours.means(),
            Ground::Bare(run, programs) => Means { run, programs },
        }
    }
}

impl Field {
    /// Lays these peers, starts a server at the end of each way, and waits until an echo comes back on each. One field
    /// at a time: a second one in this process waits for the first one's end when ours is in both.
    ///
    /// # Errors
    /// When a peer that is not [absent](Laid::absent) does not come up.
    pub fn lay(peers: &[Peer], settings: Settings, progress: impl Fn(&str)) -> Result<Field> {
        let ground = if peers.contains(&Peer::Ours) {
            progress("starting managers, nodes and containers");
            Ground::Ours(Box::new(Ours::up(settings)?))
        } else {
            let programs = Programs::find()?;
            Ground::Bare(Run::new()?, programs)
        };
        let mut field = Field {
            peers: Vec::new(),
            ground,
        };
        for &peer in peers {
            progress(&format!("laying {}", peer.name()));
            let laid = field
                .lay_one(peer, settings)
                .with_context(|| format!("laying {}", peer.name()))?;
            field.peers.push(laid);
        }
        field.means().run.note_leftovers();
        Ok(field)
    }

    fn lay_one(&mut self, peer: Peer, settings: Settings) -> Result<Laid> {
        if let (Peer::Ours, Ground::Ours(ours)) = (peer, &mut self.ground) {
            let laid = ours.laid(settings)?;
            self.try_out(&laid, false)?;
            return Ok(laid);
        }
        let run = self.means().run;
        let laid = match peer {
            Peer::Ours => Laid::missing(ours::NAME, "not asked for"),
            Peer::Kernel => kernel::lay(run, settings)?,
            Peer::Steered => kernel::lay_steered(run, settings)?,
            Peer::Testpmd => testpmd::lay(run, settings)?,
            Peer::Floor => floor::lay(self.means(), settings)?,
            Peer::Ovs => ovs::lay(self.means(), settings)?,
        };
        self.try_out(&laid, true)?;
        Ok(laid)
    }

    /// Has an echo come back on each way, after starting a server where there is none yet.
    fn try_out(&self, laid: &Laid, serve: bool) -> Result<()> {
        for nodes in Nodes::BOTH {
            if laid.absent(nodes).is_some() {
                continue;
            }
            let way = laid.wake(nodes)?;
            if serve {
                // The run ends it.
                let _server = way.serve(self.means())?;
            }
            way.wait(self.means())?;
            self.means().run.note_leftovers();
        }
        Ok(())
    }

    /// What owns the processes of measurements.
    #[must_use]
    pub fn means(&self) -> Means<'_> {
        self.ground.means()
    }

    /// All peers in the order in which they were asked for.
    #[must_use]
    pub fn peers(&self) -> &[Laid] {
        &self.peers
    }

    /// All peers, another one first in each round.
    pub fn turn(&self, round: usize) -> impl Iterator<Item = &Laid> {
        let count = self.peers.len();
        (0..count).filter_map(move |turn| self.peers.get((round + turn) % count))
    }

    /// One of them.
    #[must_use]
    pub fn peer(&self, peer: Peer) -> Option<&Laid> {
        self.peers.iter().find(|laid| laid.name() == peer.name())
    }

    /// Our system beyond its ways, if it is here.
    #[must_use]
    pub fn ours(&self) -> Option<&Ours> {
        match &self.ground {
            Ground::Ours(ours) => Some(ours),
            Ground::Bare(..) => None,
        }
    }

    /// Our system to change it, both of its nodes awake.
    ///
    /// # Errors
    /// When it is not here, or one of its nodes has ended.
    pub fn ours_mut(&mut self) -> Result<(Awake<'_>, &mut Ours)> {
        let name = Peer::Ours.name();
        let laid = self.peers.iter().find(|laid| laid.name() == name);
        match (laid, &mut self.ground) {
            (Some(laid), Ground::Ours(ours)) => Ok((laid.wake(Nodes::Two)?, ours)),
            _ => bail!("our system was not asked for"),
        }
    }

    /// Takes all down and says what could not be removed.
    ///
    /// # Errors
    /// When something could not be removed.
    pub fn down(self) -> Result<()> {
        drop(self.peers);
        match self.ground {
            Ground::Ours(ours) => ours.down(),
            Ground::Bare(run, _) => run.close(),
        }
    }
}
