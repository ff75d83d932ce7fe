//! What a job asks for beyond its plugin's request, how soon it wants to run, and what is to be done when nobody can
//! start it: read from flags, checked before anything is sent.
//!
//! Owns the flags' words and their limits. Never looks at a farm: whether any host could do is `admission`'s.

use crate::failure::Failure;
use crate::units::{mib, parse_mib};
use clap::ValueEnum;
use grange_protocol::class::{ClassError, class_of};
use grange_protocol::name::Class;
use grange_protocol::resource::{
    MAX_CONSTRAINTS, MAX_CPUS, MAX_GPUS, MAX_MB, ResourceError, ResourceRequest, check_constraint,
};
use grange_protocol::ticket::Priority;
use std::collections::BTreeMap;

/// Where the policy comes from when no flag says it.
const POLICY_VARIABLE: &str = "GRANGE_POLICY";

/// What is to be done with a job that nobody can start at once.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Policy {
    // No doc comments here: with them `--help` becomes three times as long.
    // It waits.
    #[default]
    Queue,
    // It is refused, with what it needs and what there is.
    Safety,
    // It starts wherever its plugin is, without a check of resources.
    Permissive,
}

impl Policy {
    /// The flag's word, else the environment's, else `queue`.
    pub(crate) fn resolve(
        flag: Option<Self>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, Failure> {
        let named = environment.get(POLICY_VARIABLE).filter(|word| !word.is_empty());
        match (flag, named) {
            (Some(policy), _) => Ok(policy),
            (None, None) => Ok(Self::default()),
            (None, Some(word)) => Self::from_str(word, false).map_err(|_| {
                Failure::usage(format!(
                    "{POLICY_VARIABLE}: `{word}` is not a policy; use queue, safety or permissive"
                ))
            }),
        }
    }
}

/// What a job asks for beyond its plugin's request.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Resources, beyond what the plugin asks for")]
pub(crate) struct ResourceFlags {
    /// Only on such a host: gpu=MODEL, compute=8.0 or higher, driver=550 or higher, host=AGENT, or a host's label
    #[arg(long, value_name = "KEY=VALUE", value_parser = constraint)]
    on: Vec<(String, String)>,
    /// Number of GPUs
    #[arg(long, value_name = "N", value_parser = gpus)]
    gpus: Option<u32>,
    /// Memory on each GPU: MiB, or with a unit, e.g. 8GiB or 8g
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    vram: Option<u64>,
    /// Nobody else on its GPUs
    #[arg(long)]
    exclusive: bool,
    /// Memory of the host: MiB, or with a unit
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    ram: Option<u64>,
    /// Cores
    #[arg(long, value_name = "N", value_parser = cpus)]
    cpus: Option<u32>,
}

/// What goes into the ticket and its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) resources: Option<ResourceRequest>,
    pub(crate) class: Class,
}

impl ResourceFlags {
    /// The request and its class under a policy.
    pub(crate) fn wanted(&self, policy: Policy) -> Result<Wanted, Failure> {
        let mut on = BTreeMap::new();
        for (key, value) in &self.on {
            if let Some(before) = on.insert(key.clone(), value.clone()) {
                let text = format!("`--on {key}` is given twice, as `{before}` and as `{value}`");
                return Err(Failure::usage(text).hint("a host has to be all that `--on` says"));
            }
        }
        if on.len() > MAX_CONSTRAINTS {
            let text = format!("`--on` is given {} times; at most {MAX_CONSTRAINTS} can be given", on.len());
            return Err(Failure::usage(text));
        }
        let asked = ResourceRequest {
            gpus: self.gpus.unwrap_or(0),
            vram_mb: self.vram.unwrap_or(0),
            exclusive: self.exclusive,
            ram_mb: self.ram.unwrap_or(0),
            cpus: self.cpus.unwrap_or(0),
            on,
        };
        if asked.is_empty() {
            let class = if policy == Policy::Permissive { Class::any() } else { Class::plugin_default() };
            return Ok(Wanted { resources: None, class });
        }
        if policy == Policy::Permissive {
            let text = format!(
                "`{}` and the policy `permissive`, which checks no resources, exclude each other",
                self.first()
            );
            return Err(Failure::usage(text)
                .hint(format!("leave one of them out; `--policy queue` goes before {POLICY_VARIABLE}")));
        }
        // GPU memory needs a GPU: the request says so, and its class too.
        let asked = ResourceRequest::default().raised(&asked);
        let class = class_of(&asked).map_err(|error| refused(&error))?;
        Ok(Wanted { resources: Some(asked), class })
    }

    /// The first of the flags that were given.
    fn first(&self) -> &'static str {
        let given = [
            (!self.on.is_empty(), "--on"),
            (self.gpus.is_some(), "--gpus"),
            (self.vram.is_some(), "--vram"),
            (self.exclusive, "--exclusive"),
            (self.ram.is_some(), "--ram"),
        ];
        given.into_iter().find(|(given, _)| *given).map_or("--cpus", |(_, flag)| flag)
    }
}

/// The flag of a field of the request.
fn flag_of(field: &str) -> (&str, &'static str) {
    match field {
        "gpus" => ("--gpus", ""),
        "vram_mb" => ("--vram", " MiB"),
        "ram_mb" => ("--ram", " MiB"),
        "cpus" => ("--cpus", ""),
        other => (other, ""),
    }
}

fn refused(error: &ClassError) -> Failure {
    match error {
        ClassError::TooMuch { field, given, largest: most }
        | ClassError::Request(ResourceError::Absurd { field, given, most }) => {
            let (flag, unit) = flag_of(field);
            Failure::usage(format!("`{flag}` is {given}{unit}; at most {most}{unit} can be asked for"))
        }
        other => Failure::usage(other.to_string()),
    }
}

fn constraint(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    check_constraint(key, value).map_err(|error| error.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

fn amount(text: &str, most: u32) -> Result<u32, String> {
    match text.parse::<u64>() {
        Ok(0) => Err("0 asks for nothing; leave it out".to_owned()),
        Ok(given) if given > u64::from(most) => Err(format!("at most {most} can be asked for")),
        Ok(given) => Ok(u32::try_from(given).unwrap_or(most)),
        Err(_) => Err(format!("`{text}` is not a whole number, 1 or more")),
    }
}

fn gpus(text: &str) -> Result<u32, String> {
    amount(text, MAX_GPUS)
}

fn cpus(text: &str) -> Result<u32, String> {
    amount(text, MAX_CPUS)
}

fn memory(text: &str) -> Result<u64, String> {
    match parse_mib(text)? {
        0 => Err("0 asks for nothing; leave it out".to_owned()),
        given if given > MAX_MB => Err(format!("at most {MAX_MB} MiB can be asked for")),
        given => Ok(given),
    }
}

/// Reads a priority: one of the four words, or an integer as cjm-plugin-system has it, where higher goes first.
pub(crate) fn priority(text: &str) -> Result<Priority, String> {
    if let Ok(priority) = text.parse() {
        return Ok(priority);
    }
    match text.parse::<i64>() {
        Ok(10..) => Ok(Priority::Urgent),
        Ok(1..=9) => Ok(Priority::High),
        Ok(0) => Ok(Priority::Normal),
        Ok(..0) => Ok(Priority::Low),
        Err(_) => Err(format!("`{text}` is not a priority; use urgent, high, normal or low, or an integer")),
    }
}

/// A request in words: `2 GPUs with 8.0 GiB each, 4.0 GiB of memory, 2 cores, gpu=a100`; empty where nothing is asked.
pub(crate) fn in_words(request: &ResourceRequest) -> String {
    let mut parts = Vec::new();
    if request.gpus > 0 {
        let s = if request.gpus == 1 { "" } else { "s" };
        let own = if request.exclusive { " of its own" } else { "" };
        let memory = match (request.vram_mb, request.gpus) {
            (0, _) => String::new(),
            (vram, 1) => format!(" with {}", mib(vram)),
            (vram, _) => format!(" with {} each", mib(vram)),
        };
        parts.push(format!("{} GPU{s}{own}{memory}", request.gpus));
    }
    if request.ram_mb > 0 {
        parts.push(format!("{} of memory", mib(request.ram_mb)));
    }
    if request.cpus > 0 {
        let s = if request.cpus == 1 { "" } else { "s" };
        parts.push(format!("{} core{s}", request.cpus));
    }
    parts.extend(request.on.iter().map(|(key, value)| format!("{key}={value}")));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: ResourceFlags,
    }

    fn flags(line: &str) -> Result<ResourceFlags, String> {
        let words = ["x"].into_iter().chain(line.split(' ').filter(|word| !word.is_empty()));
        Line::try_parse_from(words).map(|line| line.flags).map_err(|error| error.to_string())
    }

    fn wanted(line: &str) -> Result<Wanted, Failure> {
        flags(line).unwrap().wanted(Policy::Queue)
    }

    #[test]
    fn flags_make_the_request_and_its_class() {
        let all = wanted("--gpus 2 --vram 20g --exclusive --ram 4GiB --cpus 6 --on gpu=a100 --on zone=lab")
            .unwrap();
        assert_eq!(all.class.as_str(), "g2+v24+x+m4+c8+gpu=a100+zone=lab");
        let asked = all.resources.unwrap();
        assert_eq!((asked.gpus, asked.vram_mb, asked.ram_mb, asked.cpus), (2, 20480, 4096, 6));
        let one = wanted("--vram 8000").unwrap();
        assert_eq!((one.resources.unwrap().gpus, one.class.as_str()), (1, "g1+v8"), "memory needs a GPU");
        let nothing = wanted("").unwrap();
        assert_eq!((nothing.resources, nothing.class), (None, Class::plugin_default()));
    }

    #[test]
    fn a_request_is_said_in_words() {
        let said = |line: &str| {
            wanted(line).unwrap().resources.map(|request| in_words(&request)).unwrap_or_default()
        };
        assert_eq!(
            said("--gpus 2 --vram 8g --ram 512 --cpus 1 --on gpu=a100"),
            "2 GPUs with 8.0 GiB each, 512.0 MiB of memory, 1 core, gpu=a100"
        );
        assert_eq!((said("--exclusive").as_str(), said("").as_str()), ("1 GPU of its own", ""));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_limit() {
        for (line, said) in [
            ("--gpus 65", "at most 64"),
            ("--gpus 0", "leave it out"),
            ("--gpus -1", "'-1'"),
            ("--cpus 99999", "at most 4096"),
            ("--cpus many", "`many` is not a whole number"),
            ("--vram 0", "leave it out"),
            ("--vram 99t", "at most 16777216 MiB"),
            ("--ram 8x", "`8x` is not an amount of memory"),
            ("--on gpu", "constraint `gpu=`: write it as `key=value`"),
            ("--on driver=new", "write a version"),
            ("--on zone=a*b", "letters, digits"),
        ] {
            let error = flags(line).unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
        for (line, said) in [
            ("--vram 300g", "`--vram` is 307200 MiB; at most 294912 MiB can be asked for"),
            ("--cpus 600", "`--cpus` is 600; at most 512 can be asked for"),
            ("--on gpu=a100 --on gpu=h100", "`--on gpu` is given twice, as `a100` and as `h100`"),
        ] {
            let failure = wanted(line).unwrap_err();
            assert_eq!((failure.exit, failure.text.as_str()), (Exit::Usage, said));
        }
        let long: Vec<String> =
            (0..4).map(|n| format!("--on {}{n}={}", "k".repeat(40), "v".repeat(40))).collect();
        assert!(wanted(&long.join(" ")).unwrap_err().text.contains("too long together"));
    }

    #[test]
    fn a_policy_comes_from_the_flag_then_from_the_environment() {
        let set = |word: &str| BTreeMap::from([(POLICY_VARIABLE.to_owned(), word.to_owned())]);
        assert_eq!(Policy::resolve(None, &BTreeMap::new()), Ok(Policy::Queue));
        assert_eq!(Policy::resolve(None, &set("safety")), Ok(Policy::Safety));
        assert_eq!(Policy::resolve(Some(Policy::Queue), &set("nonsense")), Ok(Policy::Queue));
        let failure = Policy::resolve(None, &set("nonsense")).unwrap_err();
        assert_eq!(
            failure.text,
            "GRANGE_POLICY: `nonsense` is not a policy; use queue, safety or permissive"
        );
    }

    #[test]
    fn permissive_checks_nothing_and_so_takes_no_request() {
        let none = flags("").unwrap().wanted(Policy::Permissive).unwrap();
        assert_eq!((none.resources, none.class), (None, Class::any()));
        let failure = flags("--cpus 2").unwrap().wanted(Policy::Permissive).unwrap_err();
        assert!(failure.text.starts_with("`--cpus` and the policy `permissive`"), "{}", failure.text);
    }

    #[test]
    fn priorities_are_words_or_the_seeds_integers() {
        use Priority::{High, Low, Normal, Urgent};
        for (text, priority_) in [
            ("urgent", Urgent),
            ("low", Low),
            ("10", Urgent),
            ("99", Urgent),
            ("9", High),
            ("1", High),
            ("0", Normal),
            ("-3", Low),
        ] {
            assert_eq!(priority(text), Ok(priority_), "{text}");
        }
        assert!(priority("soon").unwrap_err().contains("urgent, high, normal or low, or an integer"));
        assert!(priority("1.5").is_err());
    }
}
