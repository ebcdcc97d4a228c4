//! What a script in `lua/` takes and answers, in types. Its header says the same; a test of each adapter compares the two.

use std::sync::LazyLock;

use redis::Script;

/// First element of every reply.
pub trait ReplyCode: Copy + 'static {
    fn number(self) -> i64;
    fn name(self) -> &'static str;
}

/// One script and what it promises.
pub struct ScriptContract<C: ReplyCode> {
    pub name: &'static str,
    pub source: &'static str,
    /// The names of the fixed keys, in order.
    pub keys: &'static [&'static str],
    /// The names of the keys that follow for each variant of the call.
    pub keys_per_variant: &'static [&'static str],
    pub args: &'static [&'static str],
    pub reply: &'static [&'static str],
    pub codes: &'static [C],
    pub(crate) script: LazyLock<Script>,
}

/// `script!(CONSTANT: Code, "file", [keys], [keys for each variant], [args], [reply], [codes])`
macro_rules! script {
    ($constant:ident, $name:literal, $keys:expr, $per_variant:expr, $args:expr, $reply:expr, $codes:expr) => {
        pub static $constant: $crate::scripting::ScriptContract<Code> = $crate::scripting::ScriptContract {
            name: $name,
            source: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../lua/", $name, ".lua")),
            keys: &$keys,
            keys_per_variant: &$per_variant,
            args: &$args,
            reply: &$reply,
            codes: &$codes,
            script: std::sync::LazyLock::new(|| redis::Script::new($constant.source)),
        };
    };
}
pub(crate) use script;

/// A call of one script, ready to be sent, by its hash or with its source.
pub(crate) struct ScriptCall {
    source: &'static str,
    script: &'static Script,
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl<C: ReplyCode> ScriptContract<C> {
    /// The call with these keys and arguments, in the contract's order.
    pub(crate) fn with(&'static self, keys: Vec<String>, args: Vec<Vec<u8>>) -> ScriptCall {
        assert_eq!(args.len(), self.args.len(), "{} takes {:?}", self.name, self.args);
        ScriptCall { source: self.source, script: &self.script, keys, args }
    }
}

impl ScriptCall {
    pub(crate) fn by_hash(&self) -> redis::Cmd {
        self.command("EVALSHA", self.script.get_hash())
    }

    pub(crate) fn by_source(&self) -> redis::Cmd {
        self.command("EVAL", self.source)
    }

    fn command(&self, verb: &str, script: &str) -> redis::Cmd {
        redis::cmd(verb).arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.args).take()
    }
}

/// What the tests of each adapter ask of its scripts.
#[cfg(test)]
pub(crate) mod checks {
    use super::*;

    /// The words behind `-- LABEL` in a script's header.
    fn header(source: &str, label: &str) -> Vec<String> {
        let prefix = format!("-- {label}");
        let line = source.lines().find(|line| line.starts_with(&prefix)).unwrap_or_else(|| panic!("no line {prefix}"));
        line[prefix.len()..].split_whitespace().map(str::to_owned).collect()
    }

    pub(crate) fn headers_and_contract_say_the_same<C: ReplyCode>(all: &[&ScriptContract<C>]) {
        for contract in all {
            let mut keys = contract.keys.to_vec();
            if !contract.keys_per_variant.is_empty() {
                keys.push("/");
                keys.extend(contract.keys_per_variant);
            }
            assert_eq!(header(contract.source, "KEYS"), keys, "{}: KEYS", contract.name);
            assert_eq!(header(contract.source, "ARGV"), contract.args, "{}: ARGV", contract.name);
            assert_eq!(header(contract.source, "REPLY"), contract.reply, "{}: REPLY", contract.name);
            let codes = contract.codes.iter().map(|code| code.name()).collect::<Vec<_>>();
            assert_eq!(header(contract.source, "CODES"), codes, "{}: CODES", contract.name);
        }
    }

    pub(crate) fn scripts_use_what_their_header_says<C: ReplyCode>(all: &[&ScriptContract<C>]) {
        for contract in all {
            let source = contract.source;
            assert!(source.starts_with("#!lua\n"), "{}: a shebang without flags", contract.name);
            assert!(source.contains("assert(#KEYS"), "{}: asserts its keys", contract.name);
            for index in 1..=contract.keys.len() {
                assert!(source.contains(&format!("KEYS[{index}]")), "{}: names KEYS[{index}]", contract.name);
            }
            for index in 1..=contract.args.len() {
                assert!(source.contains(&format!("ARGV[{index}]")), "{}: names ARGV[{index}]", contract.name);
            }
            let names = contract.codes.iter().map(|code| code.name()).collect::<Vec<_>>().join(", ");
            let numbers = contract.codes.iter().map(|code| code.number().to_string()).collect::<Vec<_>>().join(", ");
            let line = format!("local {names} = {numbers}\n");
            assert!(source.contains(&line), "{}: {line}", contract.name);
        }
    }

    /// Of the files in `lua/`, those that `is_ours` are exactly these.
    pub(crate) fn every_file_is_known<C: ReplyCode>(all: &[&ScriptContract<C>], is_ours: impl Fn(&str) -> bool) {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../lua");
        let files = std::fs::read_dir(folder).unwrap().filter_map(|entry| {
            entry.unwrap().file_name().into_string().unwrap().strip_suffix(".lua").map(str::to_owned)
        });
        let mut files = files.filter(|name| is_ours(name)).collect::<Vec<_>>();
        let mut names = all.iter().map(|contract| contract.name.to_owned()).collect::<Vec<_>>();
        files.sort();
        names.sort();
        assert_eq!(files, names);
    }
}
