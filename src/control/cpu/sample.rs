//! How much of the processors was used between two looks: of what the control groups allow (cgroup v2 `cpu.max`,
//! `cpu.stat`) where one of them sets a limit, else of the machine (`/proc/stat`), on the processors this process may use.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Where control groups are: alone, and beside those of version 1.
const CGROUP_ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Groups around this process that are looked at.
const MAX_GROUPS: usize = 16;

/// 0 to 1 of the processors that the daemon may use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// Of all work that does not give way.
    pub all: f64,
    /// Of the daemon.
    pub own: f64,
}

/// What has been used up to one moment.
#[derive(Clone, Debug)]
pub struct Times {
    at: Instant,
    own: Duration,
    machine: Machine,
    groups: Vec<Group>,
}

/// Processor time in ticks, of the processors this process may run on.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Machine {
    processors: usize,
    busy: u64,
    total: u64,
}

/// A control group with a limit.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    path: PathBuf,
    /// Processors that it may use.
    quota: f64,
    used: Duration,
}

impl Times {
    /// `None`: the kernel does not tell.
    pub fn now() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let allowed = allowed(&status);
        let machine = machine(&fs::read_to_string("/proc/stat").ok()?, &allowed)?;
        let own = own(&fs::read_to_string("/proc/self/stat").ok()?)?;
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let groups = paths(&cgroup).filter_map(Group::read).collect();
        Some(Self { at: Instant::now(), own, machine, groups })
    }

    /// The share used since `before`, and how long that was; `None` when no time has passed.
    pub fn since(&self, before: &Self) -> Option<(Share, Duration)> {
        let elapsed = self.at.checked_duration_since(before.at)?;
        let ticks = self.machine.total.saturating_sub(before.machine.total);
        if elapsed.is_zero() || ticks == 0 {
            return None;
        }
        let same = |g: &Group| before.groups.iter().find(|b| b.path == g.path).map(|b| b.used);
        let of_group = |g: &Group| {
            let used = g.used.saturating_sub(same(g)?);
            Some(used.as_secs_f64() / elapsed.as_secs_f64() / g.quota)
        };
        let groups = self.groups.iter().filter_map(of_group).reduce(f64::max);
        let processors = self.groups.iter().map(|g| g.quota).fold(self.machine.processors as f64, f64::min);
        let own = self.own.saturating_sub(before.own).as_secs_f64() / elapsed.as_secs_f64() / processors;
        let busy = self.machine.busy.saturating_sub(before.machine.busy);
        let all = groups.unwrap_or(busy as f64 / ticks as f64);
        // It may itself run at a lower priority, and ticks are counted coarsely.
        let own = own.clamp(0.0, 1.0);
        Some((Share { all: all.clamp(own, 1.0), own }, elapsed))
    }
}

/// Of the line `Cpus_allowed_list: 0-3,8` in `/proc/self/status` (proc_pid_status(5)); empty: any.
fn allowed(status: &str) -> HashSet<usize> {
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let ranges = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?.min(1 << 14))
    });
    ranges.flatten().collect()
}

/// Of the lines `cpuN user nice system idle iowait irq softirq steal …` (proc_stat(5)) those of `allowed`. Waiting for
/// the disk is idle, and so is what gives way; `guest` is in `user` already.
fn machine(stat: &str, allowed: &HashSet<usize>) -> Option<Machine> {
    let mut sum = Machine { processors: 0, busy: 0, total: 0 };
    for line in stat.lines().filter_map(|l| l.strip_prefix("cpu")) {
        let mut words = line.split_ascii_whitespace();
        let Some(Ok(number)) = words.next().filter(|_| !line.starts_with(' ')).map(str::parse::<usize>)
        else {
            continue;
        };
        if !allowed.is_empty() && !allowed.contains(&number) {
            continue;
        }
        let ticks: Vec<u64> = words.take(8).map_while(|w| w.parse().ok()).collect();
        let &[user, nice, system, idle, iowait, ref rest @ ..] = &ticks[..] else { continue };
        let add = |ticks: &[u64]| ticks.iter().fold(0, |sum: u64, t| sum.saturating_add(*t));
        let busy = add(rest).saturating_add(add(&[user, system]));
        sum.processors += 1;
        sum.busy = sum.busy.saturating_add(busy);
        sum.total = add(&[sum.total, busy, nice, idle, iowait]);
    }
    (sum.processors > 0).then_some(sum)
}

/// `utime` and `stime` of `/proc/self/stat`; the name before them may hold anything.
fn own(stat: &str) -> Option<Duration> {
    let mut words = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system) = (words.next()?.parse::<u64>().ok()?, words.next()?.parse::<u64>().ok()?);
    let ticks = user.saturating_add(system);
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// The folders of this process's group and of those around it. `cgroup`: `/proc/self/cgroup`.
fn paths(cgroup: &str) -> impl Iterator<Item = PathBuf> {
    let group = cgroup.lines().find_map(|l| l.strip_prefix("0::/")).map(Path::new);
    let groups = group.into_iter().flat_map(Path::ancestors).take(MAX_GROUPS);
    groups.flat_map(|g| CGROUP_ROOTS.map(|root| Path::new(root).join(g)))
}

impl Group {
    /// `None` where it has no limit, which the root never has.
    fn read(path: PathBuf) -> Option<Self> {
        let quota = quota(&fs::read_to_string(path.join("cpu.max")).ok()?)?;
        let used = used(&fs::read_to_string(path.join("cpu.stat")).ok()?)?;
        Some(Self { path, quota, used })
    }
}

/// `QUOTA PERIOD` in µs, or `max PERIOD`.
fn quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<u32>().ok()?, period.parse::<u32>().ok()?);
    (quota > 0 && period > 0).then(|| f64::from(quota) / f64::from(period))
}

fn used(stat: &str) -> Option<Duration> {
    let used = stat.lines().find_map(|l| l.strip_prefix("usage_usec "))?;
    used.trim().parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  30 6 12 60 3 0 6 3 0 0\ncpu0 10 2 4 20 1 0 2 1 0 0\ncpu1 10 2 4 20 1 0 2 1 5 5\n\
                        cpu12 10 2 4 20 1 0 2 1 0 0\nintr 5 4\nctxt 1\n";

    #[test]
    fn the_processors_that_may_be_used_count_and_niced_work_does_not() {
        let machine =
            |list: &str| machine(STAT, &allowed(&format!("Name:\tx\nCpus_allowed_list:\t{list}\n")));
        let of = |n: u64| Machine { processors: n as usize, busy: 17 * n, total: 40 * n };
        for (list, expected) in [
            ("0-1,12", Some(of(3))),
            ("0", Some(of(1))),
            ("1,12", Some(of(2))),
            ("2-11", None),
            ("", Some(of(3))),
            ("0-18446744073709551615", Some(of(3))),
        ] {
            assert_eq!(machine(list), expected, "{list}");
        }
        assert_eq!(super::machine("cpu0 1 2\n", &HashSet::new()), None, "too short to be understood");
    }

    #[test]
    fn limits_of_control_groups_are_read() {
        for (text, expected) in [
            ("max 100000\n", None),
            ("150000 100000\n", Some(1.5)),
            ("50000 100000", Some(0.5)),
            ("0 100000", None),
            ("50000 0", None),
            ("", None),
        ] {
            assert_eq!(quota(text), expected, "{text:?}");
        }
        let stat = "usage_usec 2500000\nuser_usec 1\nsystem_usec 2\nnr_periods 5\n";
        assert_eq!(used(stat), Some(Duration::from_millis(2_500)));
        let paths: Vec<_> = paths("1:cpu:/old\n0::/system.slice/reeld.service\n").collect();
        let expected = [
            "/sys/fs/cgroup/system.slice/reeld.service",
            "/sys/fs/cgroup/unified/system.slice/reeld.service",
            "/sys/fs/cgroup/system.slice",
            "/sys/fs/cgroup/unified/system.slice",
            "/sys/fs/cgroup/",
            "/sys/fs/cgroup/unified/",
        ];
        assert_eq!(paths, expected.map(PathBuf::from));
    }

    #[test]
    fn its_own_time_is_behind_its_name() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(own(stat), Some(Duration::from_secs_f64(300.0 / ticks)));
        assert_eq!(own("7 (a) S 1"), None);
    }

    #[test]
    fn the_share_is_of_what_may_be_used() {
        let begun = Instant::now();
        let times = |seconds: u64, own_ms: u64, busy: u64, used_ms: &[(u64, f64)]| Times {
            at: begun + Duration::from_secs(seconds),
            own: Duration::from_millis(own_ms),
            machine: Machine { processors: 2, busy, total: 200 * seconds },
            groups: (used_ms.iter().enumerate())
                .map(|(n, (ms, quota))| Group {
                    path: n.to_string().into(),
                    quota: *quota,
                    used: Duration::from_millis(*ms),
                })
                .collect(),
        };
        let share = |after: Times, before: Times| after.since(&before).map(|(s, _)| (s.all, s.own));
        assert_eq!(share(times(1, 500, 100, &[]), times(0, 0, 0, &[])), Some((0.5, 0.25)));
        assert_eq!(share(times(2, 500, 100, &[]), times(0, 0, 0, &[])), Some((0.25, 0.125)));
        let free = [(0, 0.5), (0, 1.0)];
        let half = [(250, 0.5), (900, 1.0)];
        assert_eq!(
            share(times(1, 100, 200, &half), times(0, 0, 0, &free)),
            Some((0.9, 0.2)),
            "the group with least left, whatever the machine does"
        );
        assert_eq!(share(times(1, 900, 10, &[]), times(0, 0, 0, &[])), Some((0.45, 0.45)), "itself niced");
        assert_eq!(
            share(times(1, 100, 50, &half), times(0, 0, 0, &[])),
            Some((0.25, 0.2)),
            "limited just now"
        );
        assert_eq!(share(times(1, 0, 0, &[]), times(1, 0, 0, &[])), None, "no time has passed");
    }

    proptest::proptest! {
        #[test]
        fn nothing_the_kernel_could_say_panics(text in "[ -~\n\t]{0,300}") {
            let _ = (allowed(&text), machine(&text, &allowed(&text)), own(&text), quota(&text), used(&text));
            let _ = paths(&text).count();
        }
    }
}
