//! The scripts. Their first line makes a server that cannot write refuse them at once: otherwise a
//! replica would answer from old records, up to the first write. Numbers up to 2⁵³ are exact in
//! Lua, but must not be converted to text implicitly.

use redis::{Cmd, Script};

/// A script and its hash.
pub(super) struct Loaded {
    pub(super) text: String,
    pub(super) hash: Script,
}

impl Loaded {
    pub(super) fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            hash: Script::new(&text),
            text,
        }
    }
}

/// A call of a script, by its text or its hash.
pub(super) fn calling(how: &str, script: &str, key: &str, arguments: &[&str]) -> Cmd {
    let mut call = Cmd::with_capacity(4 + arguments.len(), script.len() + key.len() + 128);
    call.arg(how).arg(script).arg(1).arg(key).arg(arguments);
    call
}

/// KEYS: the record. ARGV: the record of a first claim, its expiry. Returns what is left of a lease
/// or pause, and the current record.
pub(super) const CLAIM: &str = "#!lua
local found = redis.call('GET', KEYS[1])
local state, attempt, retention, digest
if found then
    state, attempt, retention, digest = string.match(found, '^(%l):(%x+):%x+:(%d+):(%x+)$')
    if not state or #digest ~= 32 then return {0, found} end
    if state ~= 'c' and state ~= 'p' then return {0, found} end
    local left = redis.call('PTTL', KEYS[1]) - tonumber(retention)
    if left > 0 then return {left, found} end
end
local claimed = ARGV[1]
if found then
    local rest = string.match(claimed, '^c:%x+(:%x+:%d+:)')
    attempt = math.min(tonumber(attempt, 16) + 1, 4294967295)
    claimed = 'c:' .. string.format('%08x', attempt) .. rest .. digest
end
redis.call('SET', KEYS[1], claimed, 'PX', ARGV[2])
return {0, claimed}
";

/// KEYS: the record. ARGV: how the record begins if the token is valid, how it should begin, its
/// retention, its expiry. Returns 1 if the token was valid.
pub(super) const CHANGE: &str = "#!lua
local found = redis.call('GET', KEYS[1])
if not found or string.sub(found, 1, 27) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2] .. ':' .. ARGV[3] .. ':' .. string.sub(found, -32), 'PX', ARGV[4])
return 1
";

/// KEYS: the record. ARGV: how the record begins if the token is valid. Returns 1 if the token was
/// valid. Repeating the same completion changes nothing. This runs once per event, so it is
/// minimal: it takes little more than half the time of rewriting the record. (Converting numbers to
/// text in Lua would lose some of that.)
pub(super) const FINISH: &str = "#!lua
local held = redis.call('GETRANGE', KEYS[1], '0', '26')
if held == ARGV[1] then
    redis.call('SETRANGE', KEYS[1], '0', 'STATE')
    return 1
end
if held == 'STATE' .. string.sub(ARGV[1], 2) then return 1 end
return 0
";
