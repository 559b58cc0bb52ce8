//! A real Redis on a free port.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A `redis-server` process. Ends on drop.
pub(crate) struct Redis {
    child: Child,
    pub(crate) port: u16,
    options: Vec<String>,
    home: TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a server with these options.
    pub(crate) fn with(options: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        // Below the ports that the kernel gives to clients, so that the port is free for a restart.
        let (child, port) = (0..100)
            .find_map(|_| {
                let port = 15_000 + rand::random::<u16>() % 15_000;
                Some((spawn(port, &options, &home)?, port))
            })
            .expect("redis-server starts");
        Self { child, port, options, home }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection for the test's own commands.
    pub(crate) fn connection(&self) -> redis::Connection {
        let started = Instant::now();
        loop {
            let client = redis::Client::open(self.url()).unwrap();
            match client.get_connection_with_timeout(Duration::from_secs(5)) {
                Ok(connection) => return connection,
                Err(error) => assert!(started.elapsed() < Duration::from_mins(1), "{error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let (name, arguments) = command.split_first().unwrap();
        redis::cmd(name).arg(arguments).query(&mut self.connection()).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same port, without data.
    pub(crate) fn restart(&mut self) {
        let started = Instant::now();
        loop {
            if let Some(child) = spawn(self.port, &self.options, &self.home) {
                self.child = child;
                return;
            }
            assert!(started.elapsed() < Duration::from_mins(1), "redis-server starts again");
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server and waits until it answers or exits. `None`: the port is in use.
fn spawn(port: u16, options: &[String], home: &TempDir) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(options)
        .current_dir(home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    let started = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if child.try_wait().unwrap().is_some() || started.elapsed() > Duration::from_mins(1) {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Another program may have been listening there.
    std::thread::sleep(Duration::from_millis(20));
    child.try_wait().unwrap().is_none().then_some(child)
}
