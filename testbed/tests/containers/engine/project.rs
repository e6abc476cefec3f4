//! What stands in compose.yaml beside the nodes, and the commands of the Makefile.

use std::process::{Command, Stdio};

use super::{Fleet, run, step};

impl Fleet {
    /// The container of a service that has one, whether or not it runs.
    pub fn service(&self, name: &str) -> String {
        let (project, service) = self.labels(name);
        let id = self.docker(["ps", "-aq", "--filter", &project, "--filter", &service]);
        id.split_whitespace().next().unwrap_or_else(|| panic!("no container of {name}")).to_owned()
    }

    /// Ids of everything that runs.
    pub fn running(&self) -> Vec<String> {
        let (project, _) = self.labels("");
        let ids = self.docker(["ps", "-q", "--filter", &project]);
        ids.split_whitespace().map(str::to_owned).collect()
    }

    fn labels(&self, service: &str) -> (String, String) {
        let project = format!("label=com.docker.compose.project={}", self.project);
        (project, format!("label=com.docker.compose.service={service}"))
    }

    /// Whether a command of the engine ends well.
    pub fn succeeds<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> bool {
        Command::new("docker").args(args).output().is_ok_and(|output| output.status.success())
    }

    /// How a command of the engine ends, and what it says on either stream.
    pub fn ends<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> (Option<i32>, String) {
        let output = Command::new("docker").args(args).output().expect("docker starts");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    /// A volume of this project, by its name in compose.yaml.
    pub fn volume(&self, name: &str) -> String {
        format!("{}_{name}", self.project)
    }

    /// To a process of one of this project's containers, by its pid on this machine.
    pub fn signal(&self, pid: u32, signal: &str) {
        run(Command::new("kill").args([signal, &pid.to_string()]));
    }

    /// TERM to the script below that `make`.
    pub fn signal_script(&self, make: u32, script: &str) {
        run(Command::new("pkill").args(["-TERM", "-P", &make.to_string(), "-f", script]));
    }

    /// etcdctl as the user who may write anything.
    pub fn as_root(&self, args: &[&str]) -> String {
        self.compose(
            ["run", "--rm", "--no-deps", "-T", "etcd-root", "etcdctl"]
                .into_iter()
                .chain(args.iter().copied()),
        )
    }

    /// A make target on this project; what it says goes to the test's own stderr.
    ///
    /// # Panics
    /// When it fails.
    pub fn make(&self, args: &[&str], variables: &[(&str, &str)]) {
        step(&format!("make {}", args.join(" ")));
        let status = self.making(args, variables).status().expect("make starts");
        assert!(status.success(), "make {args:?} {variables:?}: {status}");
    }

    /// What it says.
    ///
    /// # Panics
    /// When it fails.
    pub fn make_says(&self, args: &[&str], variables: &[(&str, &str)]) -> String {
        step(&format!("make {}", args.join(" ")));
        let output = self.making(args, variables).stderr(Stdio::piped()).output().expect("make starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "make {args:?} {variables:?}: {said}");
        said
    }

    /// What it says when it has to fail.
    ///
    /// # Panics
    /// When it does not.
    pub fn make_fails(&self, args: &[&str], variables: &[(&str, &str)]) -> String {
        step(&format!("make {} with {variables:?}, which must fail", args.join(" ")));
        let output = self.making(args, variables).stderr(Stdio::piped()).output().expect("make starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "make {args:?} {variables:?} succeeds: {said}");
        said
    }

    pub fn making(&self, args: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new("make");
        command.arg("--no-print-directory").args(args).current_dir(&self.root).stdin(Stdio::null());
        command.env("COMPOSE_PROJECT_NAME", &self.project).envs(variables.iter().copied());
        command.env("MUSTER_PORT", self.port.to_string()).env("MUSTER_BIND", "127.0.0.1");
        command
    }
}
