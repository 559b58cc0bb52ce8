//! What a month costs before anybody types: what is paid for by the hour, used or not. us-east-1, without the free tier, and
//! with the prices' date of `price.rs`.

use crate::report::print_table;

use super::price::PRICES_OF;

/// Hours of a month, as AWS's calculator takes it.
const HOURS: f64 = 730.0;
/// Fargate, Linux on `x86_64`: a vCPU-hour and a GB-hour. <https://aws.amazon.com/fargate/pricing/>
const FARGATE_X86: (f64, f64) = (0.040_48, 0.004_445);
/// The same on arm64.
const FARGATE_ARM: (f64, f64) = (0.032_38, 0.003_56);
/// Application Load Balancer: an hour, without capacity units. <https://aws.amazon.com/elasticloadbalancing/pricing/>
const LOAD_BALANCER_HOUR: f64 = 0.022_5;
/// A public IPv4 address for an hour, whoever has it. <https://aws.amazon.com/vpc/pricing/>
const IPV4_HOUR: f64 = 0.005;
/// A NAT gateway for an hour; a GB through it, either way, is [`NAT_GB`]. Same page.
const NAT_HOUR: f64 = 0.045;
/// See [`NAT_HOUR`].
const NAT_GB: f64 = 0.045;
/// `CloudWatch`: an alarm for a month, for each metric that it looks at. <https://aws.amazon.com/cloudwatch/pricing/>
const ALARM_METRIC: f64 = 0.10;
/// `CloudWatch`: a dashboard for a month. Same page.
const DASHBOARD: f64 = 3.00;

/// Metrics in the alarms of `template.yaml` and `backend-ecs-service.yaml`.
const ALARM_METRICS: f64 = 10.0;
/// Subnets of the load balancer, the least that it takes: it has an address in each.
const LOAD_BALANCER_SUBNETS: f64 = 2.0;

/// One way to run `backend-ecs-service.yaml`.
struct Way {
    fargate: (f64, f64),
    vcpu: f64,
    gb: f64,
    /// The task is in a private subnet behind a NAT gateway, which has the public address in its place.
    nat: bool,
    dashboard: bool,
}

/// The templates as they are, with `AssignPublicIp=ENABLED`.
const AS_IT_IS: Way = Way { fargate: FARGATE_X86, vcpu: 0.5, gb: 1.0, nat: false, dashboard: true };
/// The same behind a NAT gateway.
const BEHIND_NAT: Way = Way { nat: true, ..AS_IT_IS };
/// `Architecture=ARM64`, `Cpu=256`, `Memory=512`; the first three dashboards of an account are free.
const SMALLEST: Way = Way { fargate: FARGATE_ARM, vcpu: 0.25, gb: 0.5, nat: false, dashboard: false };

impl Way {
    /// What it costs a month, item by item: task, load balancer, public addresses, NAT gateway, alarms, dashboard.
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
    println!("\nDollars of a month before anybody types, with backend-ecs-service.yaml ({PRICES_OF})\n");
    let head =
        ["", "task", "load balancer", "public IPv4", "NAT", "alarms", "dashboard", "all"].map(str::to_owned);
    let rows = [
        AS_IT_IS.row("the templates as they are"),
        BEHIND_NAT.row("the task behind a NAT gateway"),
        SMALLEST.row("the smallest task, on ARM"),
    ];
    print_table(&head, &rows);
    println!(
        "\na NAT gateway also takes ${NAT_GB} for each GB through it: whatever shells fetch, and all output"
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
    fn the_alarms_are_those_of_the_templates() {
        let templates = read("template.yaml") + &read("infra/backend-ecs-service.yaml");
        let count = |text: &str| templates.matches(text).count();
        // An alarm over several metrics has each in a `MetricStat`.
        let over_several = count("      Metrics:\n");
        let metrics = count("Type: AWS::CloudWatch::Alarm") - over_several + count("          MetricStat:");
        assert_eq!(metrics.to_string(), ALARM_METRICS.to_string());
    }

    #[test]
    fn the_task_is_that_of_the_template() {
        let template = read("infra/backend-ecs-service.yaml");
        let cpu = format!("  Cpu:\n    Type: String\n    Default: '{}'", AS_IT_IS.vcpu * 1024.0);
        let memory = format!("  Memory:\n    Type: String\n    Default: '{}'", AS_IT_IS.gb * 1024.0);
        assert!(template.contains(&cpu) && template.contains(&memory));
        let smallest = format!("AllowedValues: ['{}',", SMALLEST.vcpu * 1024.0);
        assert!(template.contains(&smallest));
    }

    #[test]
    fn the_readme_says_what_a_month_costs() {
        let readme = read("README.md");
        for way in [AS_IT_IS, BEHIND_NAT, SMALLEST] {
            let dollars = format!("${:.2}", way.dollars());
            assert!(readme.contains(&dollars), "{dollars} is not in README.md");
        }
    }
}
