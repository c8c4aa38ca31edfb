//! Containers: a long-lived process in a network namespace of its own, as a runtime would hand it
//! to the NodeEngine, and whatever is run beside it later.

use std::path::Path;

use anyhow::Result;

use crate::namespace::Namespace;
use crate::process::{Launch, Process};
use crate::run::{Run, Stage};
use crate::services::Programs;

/// One instance's process.
#[derive(Debug)]
pub struct Container {
    name: String,
    process: Process,
    tasks: u32,
}

impl Container {
    /// Starts `workload serve` for an instance in a fresh namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        run: &Run,
        programs: &Programs,
        service: &str,
        instance: u32,
    ) -> Result<Container> {
        let number = instance.to_string();
        Container::launched(
            run,
            programs,
            &format!("{service}-{number}"),
            &["serve", "--instance", &number],
        )
    }

    /// Starts a container that holds no port: a client.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn idle(run: &Run, programs: &Programs, name: &str) -> Result<Container> {
        Container::launched(run, programs, name, &["idle"])
    }

    fn launched(
        run: &Run,
        programs: &Programs,
        name: &str,
        arguments: &[&str],
    ) -> Result<Container> {
        let program = programs.path("workload");
        let process = Launch::new(name, &program, &Namespace::Fresh, Stage::Workload)
            .args(arguments.iter().copied())
            .start(run)?;
        Ok(Container {
            name: name.to_owned(),
            process,
            tasks: 0,
        })
    }

    /// The pid that `/container/deploy` gets.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its name in the run.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace, alive as long as it is.
    #[must_use]
    pub fn namespace(&self) -> Namespace {
        Namespace::OfProcess(self.pid())
    }

    /// Prepares a further process inside, with a log of its own.
    #[must_use]
    pub fn launch(&mut self, what: &str, program: &Path) -> Launch {
        self.tasks += 1;
        let name = format!("{}.{}-{what}", self.name, self.tasks);
        Launch::new(&name, program, &self.namespace(), Stage::Workload)
    }

    /// Kills its process, as a runtime does.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }
}
