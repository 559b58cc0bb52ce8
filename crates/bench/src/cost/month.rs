//! Fixed price of a month: what AWS bills by the hour, used or not. us-east-1, without the free tier; `price.rs` has the
//! date of the prices.

use crate::report::print_table;

use super::price::PRICES_OF;

/// Hours per month, as in AWS's calculator.
const HOURS: f64 = 730.0;
/// Fargate, Linux on `x86_64`: a vCPU-hour and a GB-hour. <https://aws.amazon.com/fargate/pricing/>
const FARGATE_X86: (f64, f64) = (0.040_48, 0.004_445);
/// The same on arm64.
const FARGATE_ARM: (f64, f64) = (0.032_38, 0.003_56);
/// Application Load Balancer: an hour, without capacity units. <https://aws.amazon.com/elasticloadbalancing/pricing/>
const LOAD_BALANCER_HOUR: f64 = 0.022_5;
/// A public IPv4 address for an hour. <https://aws.amazon.com/vpc/pricing/>
const IPV4_HOUR: f64 = 0.005;
/// A NAT gateway for an hour; [`NAT_GB`] is the price of a GB in either direction. Same page.
const NAT_HOUR: f64 = 0.045;
/// See [`NAT_HOUR`].
const NAT_GB: f64 = 0.045;
/// `CloudWatch`: an alarm for a month, per metric. <https://aws.amazon.com/cloudwatch/pricing/>
const ALARM_METRIC: f64 = 0.10;
/// `CloudWatch`: a dashboard for a month. Same page.
const DASHBOARD: f64 = 3.00;

/// Metrics in the alarms of `template.yaml` and `backend-ecs-service.yaml`.
const ALARM_METRICS: f64 = 10.0;
/// Subnets of the load balancer: the minimum, with one address each.
const LOAD_BALANCER_SUBNETS: f64 = 2.0;

/// One deployment of `backend-ecs-service.yaml`.
struct Deployment {
    fargate: (f64, f64),
    vcpu: f64,
    gb: f64,
    /// The task runs in a private subnet behind a NAT gateway, which has the public address.
    nat: bool,
    dashboard: bool,
}

/// The templates' defaults, with `AssignPublicIp=ENABLED`.
const DEFAULTS: Deployment =
    Deployment { fargate: FARGATE_X86, vcpu: 0.5, gb: 1.0, nat: false, dashboard: true };
/// The same behind a NAT gateway.
const BEHIND_NAT: Deployment = Deployment { nat: true, ..DEFAULTS };
/// `Architecture=ARM64`, `Cpu=256`, `Memory=512`; the first three dashboards of an account are free.
const SMALLEST: Deployment =
    Deployment { fargate: FARGATE_ARM, vcpu: 0.25, gb: 0.5, nat: false, dashboard: false };

impl Deployment {
    /// Price per month by item: task, load balancer, public addresses, NAT gateway, alarms, dashboard.
    fn items(&self) -> [f64; 6] {
        let (vcpu, gb) = self.fargate;
        [
            HOURS * (self.vcpu * vcpu + self.gb * gb),
            HOURS * LOAD_BALANCER_HOUR,
            HOURS * (LOAD_BALANCER_SUBNETS + 1.0) * IPV4_HOUR,
            if self.nat { HOURS * NAT_HOUR } else { 0.0 },
            ALARM_METRICS * ALARM_METRIC,
            if self.dashboard { DASHBOARD } else { 0.0 },
        ]
    }

    fn dollars(&self) -> f64 {
        self.items().iter().sum()
    }

    fn row(&self, name: &str) -> Vec<String> {
        let all = self.items().into_iter().chain([self.dollars()]);
        std::iter::once(name.to_owned()).chain(all.map(|dollars| format!("{dollars:.2}"))).collect()
    }
}

/// Prints the table.
pub(super) fn print() {
    println!("\nFixed dollars per month, with backend-ecs-service.yaml ({PRICES_OF})\n");
    let head =
        ["", "task", "load balancer", "public IPv4", "NAT", "alarms", "dashboard", "all"].map(str::to_owned);
    let rows = [
        DEFAULTS.row("default parameters"),
        BEHIND_NAT.row("the task behind a NAT gateway"),
        SMALLEST.row("the smallest task, on ARM"),
    ];
    print_table(&head, &rows);
    println!(
        "\na NAT gateway also costs ${NAT_GB} per GB through it: all downloads of shells, and all output"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> String {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        std::fs::read_to_string(root.join(path)).unwrap()
    }

    #[test]
    fn the_number_of_alarm_metrics_matches_the_templates() {
        let templates = read("template.yaml") + &read("infra/backend-ecs-service.yaml");
        let count = |text: &str| templates.matches(text).count();
        // An alarm over several metrics has one `MetricStat` per metric.
        let over_several = count("      Metrics:\n");
        let metrics = count("Type: AWS::CloudWatch::Alarm") - over_several + count("          MetricStat:");
        assert_eq!(metrics.to_string(), ALARM_METRICS.to_string());
    }

    #[test]
    fn the_task_size_matches_the_template() {
        let template = read("infra/backend-ecs-service.yaml");
        let cpu = format!("  Cpu:\n    Type: String\n    Default: '{}'", DEFAULTS.vcpu * 1024.0);
        let memory = format!("  Memory:\n    Type: String\n    Default: '{}'", DEFAULTS.gb * 1024.0);
        assert!(template.contains(&cpu) && template.contains(&memory));
        let smallest = format!("AllowedValues: ['{}',", SMALLEST.vcpu * 1024.0);
        assert!(template.contains(&smallest));
    }

    #[test]
    fn the_readme_has_the_monthly_prices() {
        let readme = read("README.md");
        for deployment in [DEFAULTS, BEHIND_NAT, SMALLEST] {
            let dollars = format!("${:.2}", deployment.dollars());
            assert!(readme.contains(&dollars), "{dollars} is not in README.md");
        }
    }
}
