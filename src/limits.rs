//! Every bound of the node in one place, with its unit and its reason.
//!
//! Whatever can grow (a key, a body, a queue, a commit, a list of siblings) is stopped by a number that stands here and
//! nowhere else; flags may move some of them, within the hard limits below. This room imports nothing of ours.

/// Longest key, in bytes of UTF-8: an index page of sled holds up to 320 separators and must stay far below a quarter
/// of a segment.
pub const KEY_BYTES_MAX: usize = 1_024;

/// Default of `--max-value-bytes`.
pub const VALUE_BYTES_DEFAULT: usize = 1 << 20;

/// Hard limit of `--max-value-bytes`: one value travels and is answered as one piece of memory.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// Largest head of a request, in bytes: the HTTP library's own bound (its `MAX_BUFFER_SIZE`), which it does not export.
pub const HEAD_BYTES_MAX: usize = 128 << 10;

/// What a request body may hold beside its value: member names, white space, `ttl_seconds`.
pub const BODY_OVERHEAD_BYTES: usize = 4 << 10;

/// Deepest nesting of a JSON body, in levels, as most parsers have it: readers of our answers must not overflow.
pub const JSON_DEPTH_MAX: usize = 128;

/// Longest life that `ttl_seconds` may ask for: a hundred years.
pub const TTL_SECONDS_MAX: f64 = 3_153_600_000.0;

/// Longest wait that `timeout_ms` may ask for.
pub const WAIT_MS_MAX: u64 = 600_000;

/// How long `?w=` waits when the client does not say.
pub const WAIT_MS_DEFAULT: u64 = 5_000;

/// Most dots that one version text (`ETag`, `Causality-Token`) may name: bounds what a header can make us parse.
pub const TOKEN_DOTS_MAX: usize = 256;

/// Most origins of events in a cluster: nodes that ever wrote in it, under each of their ids. So many a vector may name, one of
/// a peer, of a `Session-Token`, or on the disk, where each commit writes three of them into one item.
pub const ORIGINS_MAX: usize = 4_096;

/// With more origins than so many nobody is taken in any more. Who is in may take another id yet.
pub const ORIGINS_JOIN_MAX: usize = ORIGINS_MAX * 3 / 4;

/// The vectors of the summary at 18 bytes an origin, and the text of what a node has yet to get, in one leaf with what else a
/// node remembers of itself.
const _: () = assert!(ORIGINS_MAX * (3 * 18 + 38) + (64 << 10) < SEGMENT_BYTES / 4);

/// Most entity tags in one `If-Match` or `If-None-Match`.
pub const TAGS_MAX: usize = 64;

/// Most siblings that local writes may pile up under one key with stale causality tokens.
pub const SIBLINGS_MAX: usize = 32;

/// Most bytes of values that local writes may pile up so: three nodes may do it at the same time, and the entry still travels
/// whole, to members, into a backup and an export.
pub const SIBLINGS_BYTES_MAX: u64 = 128 << 20;

const _: () = assert!(2 * VALUE_BYTES_MAX as u64 <= SIBLINGS_BYTES_MAX);
const _: () = assert!(3 * SIBLINGS_BYTES_MAX < (PEER_BODY_BYTES_MAX - FRAME_BYTES_MAX) as u64);

/// Larger values leave the leaf and are stored in chunks: sled rewrites a leaf of up to 20 items every ten updates.
pub const VALUE_INLINE_BYTES_MAX: usize = 4 << 10;

/// Highest number of an event that a node may tell of. No node makes so many, and the bytes on the disk have room for no more
/// than eight times that.
pub const SEQ_MAX: u64 = 1 << 60;

/// Largest encoded entry in a leaf; beyond it, its values move to chunks.
pub const ENTRY_BYTES_MAX: usize = 16 << 10;

/// Size of one chunk of a large value. A leaf of 20 of them must stay below a quarter of a segment, or sled moves the
/// page into `blobs/`, which it never syncs.
pub const CHUNK_BYTES: usize = 16 << 10;

/// sled's segment size, fixed for the life of a data directory (the manifest remembers it).
pub const SEGMENT_BYTES: usize = 2 << 20;

/// Items that sled may hold in one leaf before it splits, measured.
const LEAF_ITEMS_MAX: usize = 20;

const _: () = assert!(LEAF_ITEMS_MAX * (CHUNK_BYTES + 64) < SEGMENT_BYTES / 4);
const _: () = assert!(LEAF_ITEMS_MAX * (ENTRY_BYTES_MAX + KEY_BYTES_MAX) < SEGMENT_BYTES / 4);
const _: () = assert!(VALUE_INLINE_BYTES_MAX < ENTRY_BYTES_MAX);

/// Default of `--cache-mib`: sled's page cache. It counts log bytes, the heap grows by 25 to 45 MiB more.
pub const CACHE_MIB_DEFAULT: u64 = 64;

/// Most client writes in one commit: bounds how long the first of them waits for the last.
pub const COMMIT_WRITES_MAX: usize = 512;

/// Most value bytes in one commit, for the same reason.
pub const COMMIT_BYTES_MAX: usize = 8 << 20;

/// Most bytes in chunks that one commit may put aside (one write more, or one key, may go over): each chunk is a removal of
/// its own.
pub const COMMIT_DISCARD_BYTES_MAX: u64 = 64 << 20;

/// Most expired versions removed in one commit, so that a wave of expiry does not hold client writes up.
pub const EXPIRED_PER_COMMIT_MAX: usize = 256;

/// Most rows of the expiry index looked at in one commit: those of other nodes stand there until their grace is over.
pub const EXPIRY_LOOK_MAX: usize = 4_096;

/// Most keys, about, in which one commit looks for something to forget, beside what clients write.
pub const FORGET_PER_COMMIT_MAX: usize = 256;

/// Pause between looks at the expiry index while something is due later.
pub const EXPIRY_PAUSE_MS: u64 = 250;

/// How long after its time any member may remove an expired version in the stead of the node that wrote it.
pub const EXPIRY_GRACE_MS: u64 = 60_000;

/// A version stamped further ahead of our clock than this does not move our clock.
pub const CLOCK_AHEAD_MS_MAX: u64 = 60_000;

/// So many words in a row must say that a clock is as far off as that before it is told: one may have been long under way.
pub const CLOCK_OFF_WORDS: u32 = 3;

/// Pause between two notes that versions came from the far future, in ms: under load they do so all the time.
pub const CLOCK_TOLD_MS: u64 = 60_000;

/// Default of `--write-queue`: writes that may wait for the committer.
pub const WRITE_QUEUE_DEFAULT: usize = 4_096;

/// Memory that request bodies and large answers under way may hold together; beyond it clients get 503.
pub const TRANSIT_BYTES_MAX: usize = 128 << 20;

/// Bodies and answers up to this size are not counted against `TRANSIT_BYTES_MAX`: the connection limit bounds them.
pub const TRANSIT_FREE_BYTES: usize = 16 << 10;

/// Default of `--max-connections`.
pub const CONNECTIONS_DEFAULT: usize = 20_000;

/// Default of `--request-timeout-ms`: a request's head, and again its body, must be in by then.
pub const REQUEST_TIMEOUT_MS_DEFAULT: u64 = 30_000;

/// Default of `--idle-timeout-ms`: a keep-alive connection without a request. Longer than the 60 s that proxies use.
pub const IDLE_TIMEOUT_MS_DEFAULT: u64 = 75_000;

/// How long a connection that ends with a refusal is still read from: else the client, still sending, would meet a reset in
/// the place of its answer.
pub const LINGER_MS: u64 = 1_000;

/// A client that takes nothing of its answer for this long is cut off.
pub const STUCK_READER_MS: u32 = 30_000;

/// So is one that takes fewer bytes of an answer,
pub const READER_BYTES_LEAST: usize = 256 << 10;
/// while more waits for it, in so many ms: that is 9 KB a second. Longer than a disk stands still to which a client writes.
pub const READER_WINDOW_MS: u64 = 30_000;

/// What the kernel keeps of answers that it has not sent yet, in bytes: it takes more when half of that is gone, so several such
/// steps must come in the time of the window above. As much as goes out in a ms on a fast line.
pub const UNSENT_BYTES: u32 = 128 << 10;

const _: () = assert!(UNSENT_BYTES as usize * 2 <= READER_BYTES_LEAST);

/// How long a stop waits for requests under way before it closes their connections: a container engine kills after 10 s.
pub const STOP_GRACE_MS: u64 = 5_000;

/// How long a node that leaves waits in all, for requests under way and for the other members: who told it to is to have an
/// answer before he gives up, a container engine among them.
pub const LEAVE_MS: u64 = 8_000;

const _: () = assert!(STOP_GRACE_MS < LEAVE_MS);

/// Default of `--commit-deadline-ms`: a commit that is not on the disk by then ends the process.
pub const COMMIT_DEADLINE_MS_DEFAULT: u64 = 30_000;

/// How often the watchdog looks at the committer and at sled's sticky error.
pub const WATCHDOG_PAUSE_MS: u64 = 50;

/// How long an open retries while another handle of sled's lock lingers.
pub const LOCK_RETRY_MS: u64 = 5_000;

/// Slots of the table that tells readers which keys may have a commit on its way to the disk: 64 Ki slots of 8 bytes
/// make a false wait rarer than one in a hundred at the largest commit.
pub const PENDING_SLOTS: usize = 1 << 16;

/// Floor and ceiling of the default disk reserve (5 % of the file system), in MiB.
pub const DISK_RESERVE_MIB: (u64, u64) = (8, 256);

/// Ballast file: given back when the disk is too full for sled to open.
pub const BALLAST_BYTES: u64 = 8 << 20;

/// How many bytes of log a byte of value may cost before the next look at the free space: sled rewrites whole pages.
pub const WRITTEN_PER_BYTE_MAX: u64 = 4;

/// What small writes of one commit may cost beside their values must fit under the smallest reserve.
const _: () = assert!((COMMIT_WRITES_MAX * 8 * 1_024) as u64 <= DISK_RESERVE_MIB.0 << 20);

/// How many bytes of rows a compaction writes between two flushes and looks at the free space: bounds what is only in memory.
pub const COMPACT_FLUSH_BYTES: usize = 1 << 20;

/// How many bytes of a fresh store a byte of a row takes, about: two with values of some KiB, three to five with small ones.
pub const COMPACT_BYTES_PER_ROW_BYTE: u64 = 3;

/// Room that a compaction leaves free: for what is written between two looks, and for the segments of a store with few rows.
pub const COMPACT_SPARE_BYTES: u64 = 32 << 20;

const _: () = assert!(
    (COMPACT_FLUSH_BYTES as u64) * WRITTEN_PER_BYTE_MAX + 4 * SEGMENT_BYTES as u64 <= COMPACT_SPARE_BYTES
);

/// Page cache of each of the two stores of a compaction: rows are read and written once, in their order.
pub const COMPACT_CACHE_BYTES: u64 = 32 << 20;

/// How many bytes of log a byte of what a migration builds takes, measured: see `docs/storage.md`.
pub const MIGRATE_BYTES_PER_ROW_BYTE: u64 = 2;

/// Room that a migration leaves free, for what is written between two looks.
pub const MIGRATE_SPARE_BYTES: u64 = 32 << 20;

/// How often a migration says how far it is.
pub const MIGRATE_TOLD_MS: u64 = 10_000;

/// Page cache while it is only asked whether a directory opens.
pub const OPENS_CACHE_BYTES: u64 = 32 << 20;

/// Retries of a read whose chunks are replaced under it by writers.
pub const CHUNK_READ_RETRIES_MAX: usize = 100;

/// How many keys are read at a time while a piece of a sweep is compared with what is held: bounds memory, not work.
pub const SWEEP_READ_KEYS: usize = 1_024;

/// Most keys that one commit drops since a sweep does not list them, though its piece may span all that there are: a commit of
/// some 20 ms, behind which clients wait.
pub const SWEEP_DEAD_KEYS_MAX: usize = 1_024;
/// Keys that one commit looks at for each of these, though hardly any of them may be dead: some tens of ms as well.
pub const SWEEP_LOOKS_PER_DEAD_KEY: usize = 16;

/// How many keys are read at a time while a restored node takes all of them for its own: bounds memory, not work.
pub const RESTORE_STEP_KEYS: usize = 1_024;

/// So small a part of the disk's reserve is written while a restored node takes all keys for its own, between two flushes and
/// looks at the free space.
pub const RESTORE_FLUSH_PART: u64 = 32;

const _: () = {
    let reserve_bytes = DISK_RESERVE_MIB.0 << 20;
    let written = reserve_bytes / RESTORE_FLUSH_PART * WRITTEN_PER_BYTE_MAX;
    assert!(written + 3 * SEGMENT_BYTES as u64 <= reserve_bytes);
};

/// How many keys are read at a time while keys with siblings are looked for: bounds memory, not work.
pub const CONFLICTS_READ_KEYS: usize = 1_024;

/// Keys that `/conflicts` shows at a time, when the client does not say, and at most.
pub const CONFLICTS_SHOWN: (usize, usize) = (100, 1_000);

/// Text of one stretch of a listing, about, and keys looked at for it, those that are hidden too: bounds memory and how long
/// a thread that may block is taken. Larger values are listed alone, and count against `TRANSIT_BYTES_MAX`.
pub const LISTED_BYTES: usize = 512 << 10;
/// Keys looked at for one stretch of a listing.
pub const LISTED_KEYS: usize = 4_096;

/// Listings of keys under way at a time; each reads as fast as its client does, and may take a whole core.
pub const LISTINGS_MAX: usize = 4;

/// Rows of the log and entries kept in memory as they were written last, for those who send them to peers: as much as a few of
/// the largest frames.
pub const RECENT_BYTES: usize = 8 << 20;

/// How many keys are read at a time for a piece of a sweep. What of them is beyond its size waits for the next piece.
pub const SWEEP_STEP_KEYS: usize = 4;

/// Bytes of a row of the change log from which on the next event opens another one.
pub const LOG_ROW_BYTES: usize = 8 << 10;

/// A row and its last event, with as many versions as local writes may pile up at 18 bytes each, stay an item of a leaf.
const _: () = assert!(LOG_ROW_BYTES + KEY_BYTES_MAX + 2 * SIBLINGS_MAX * 18 < ENTRY_BYTES_MAX);

/// Default of `--log-mib`: how much of the change log is kept although every member has it. Peers and watchers that were
/// away for a moment go on from it; 1 MiB is about 50,000 writes of short keys.
pub const LOG_MIB_DEFAULT: u64 = 1;

/// Default of `--log-held-mib`: how much of the change log is kept for a member that lacks it. One that lacks more is swept.
pub const LOG_HELD_MIB_DEFAULT: u64 = 64;

/// Default of `--forget-after-hours`: a member that has been away for longer no longer holds forgetting back.
pub const FORGET_AFTER_HOURS_DEFAULT: u64 = 24;

/// How often the committer looks who has been away for too long, when it commits anyway or waits for somebody.
pub const LAPSE_LOOK_MS: u64 = 60_000;

/// Pause before a message that is no client's write asks again for room in the committer's queue.
pub const FULL_QUEUE_PAUSE_MS: u64 = 5;

/// Events and bytes of one frame, about: what is in a frame is in one commit of the peer, and holds up its writers as long.
pub const FRAME_EVENTS_MAX: u64 = 4_096;
/// Bytes of all entries of one frame or piece of a sweep, about; a larger entry travels alone.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// The same of the first message to a member, and of those to one that answers late. Five that send on a line of 100 bytes/ms at
/// the same time have an answer after four seconds: long before it is given up.
pub const MESSAGE_BYTES_LEAST: usize = 64 << 10;
/// What is answered within the first of these is followed by twice as much, what takes longer than the second by half, in ms.
pub const MESSAGE_ANSWER_MS: (u64, u64) = (2_500, 5_000);
/// Keys of one piece of a sweep, at first and at most: a commit there and a millisecond of reading here, behind which clients
/// of both wait. More where it is the line that takes its time.
pub const SWEEP_KEYS: (u64, u64) = (128, 4_096);
/// While clients write, the next piece waits half as long as the last one took, and at most so long, in ms: the time that a
/// piece takes on a long line is nobody's.
pub const SWEEP_REST_MS_MAX: u64 = 3;
/// A piece that takes longer to be answered is followed by a larger one, in ms: several times what a commit takes.
pub const SWEEP_ANSWER_MS: u64 = 50;

/// Largest body of a message between nodes: an entry travels whole, with as many siblings as several nodes may give it.
pub const PEER_BODY_BYTES_MAX: usize = 512 << 20;

/// How often the log says the same of what others ask, in ms: they may ask as often as they like.
pub const TOLD_AGAIN_MS: u64 = 60_000;
/// How long members look for another node at this one's address before the log says so, in ms: who moves is found by then.
pub const LOOKED_FOR_MS: u64 = 10_000;

/// Largest question to be taken in, which anybody may ask: many times what its vector may take.
pub const JOIN_BYTES_MAX: usize = 1 << 20;

/// Bytes of each that do not count there.
pub const PEER_BODY_BYTES_SMALL: usize = 64 << 10;

/// Bytes of messages of other nodes that may come in at a time: the largest fits. What does not is to be sent again.
pub const PEER_BODIES_BYTES_MAX: usize = PEER_BODY_BYTES_MAX;

/// Largest answer to a message between nodes, and most that is read of what a command asks a node for in passing.
pub const PEER_REPLY_BYTES_MAX: usize = 1 << 20;

/// Longest address of a peer, in bytes: a name of the domain name system has at most 253, and there is the port.
pub const ADDRESS_BYTES_MAX: usize = 260;

/// Time to connect to a peer.
pub const PEER_CONNECT_MS: u64 = 2_000;

/// Time for a message and its answer, the peer's commit included: what is slower is tried again.
pub const PEER_ANSWER_MS: u64 = 10_000;

/// Slowest line, in bytes a ms, on which a message between nodes is not given up.
pub const PEER_BYTES_PER_MS_LEAST: u64 = 100;

/// How long a member that lacks nothing of ours waits at most for word of what else we have, in ms, in a small cluster. In a
/// larger one it waits for its turn: all shippers of a node together tell one member in this time when nothing has changed,
pub const TELL_MS: u64 = 1_000;
/// and so many when something has.
pub const TELL_SHARE: u64 = 10;

/// How long a peer lacks another origin's events before we send them: until then it is that origin's own affair.
pub const RELAY_AFTER_MS: u64 = 1_000;

/// First and longest pause before a peer that can't be reached is tried again.
pub const RETRY_MS: (u64, u64) = (100, 2_000);

/// Pause before a member is sent anew what this node could not read, in ms: all that comes before it goes with it each time.
/// Longer than one that lacks something waits before it says that nothing comes.
pub const UNREADABLE_PAUSE_MS: u64 = 15_000;

const _: () = assert!(PEER_ANSWER_MS < UNREADABLE_PAUSE_MS);

/// How often a node pings one other member, in ms: with as many nodes as members, each is asked about once in that time.
pub const SWIM_PERIOD_MS: u64 = 1_000;

/// How long such a ping waits for its answer before others are asked to try: more than a busy node takes.
pub const SWIM_ROUND_TRIP_MS: u64 = 400;

/// How long a member that has not answered may object before it is called down.
pub const SWIM_SUSPECT_MS: u64 = 3_000;

/// How often news of members are told, while there are any.
pub const SWIM_GOSSIP_MS: u64 = 500;

/// How often some of those who are not known to be up are greeted.
pub const SWIM_HELLO_MS: u64 = 1_000;

/// A member of the roster that nobody has heard of is down after this time.
pub const SWIM_UNHEARD_MS: u64 = 6_000;

/// How long it is remembered that a member is down; it is greeted anyway.
pub const SWIM_FORGET_MS: u64 = 600_000;

/// How long a member has been down before the log says so, in ms: one that restarts, or has taken another id, is so for a moment.
pub const DOWN_TOLD_MS: u64 = 5_000;

/// How long an address to join by can't be reached before the log warns of it, and before a new node begins a cluster without it,
/// in ms: nodes are often started at the same time.
pub const JOIN_TOLD_MS: u64 = 5_000;

/// How long a node that was taken in, and that other members still do not take for one, waits for them to hear of it before it
/// asks them itself, in ms: word takes a second by another one, and two more when a line has failed.
pub const JOIN_DENIED_MS: u64 = 4_000;

const _: () = assert!(RELAY_AFTER_MS + RETRY_MS.1 < JOIN_DENIED_MS);

/// How far ahead of this node's clock a membership may have begun, by the word of the one that is a member since then, in ms:
/// more than clocks are apart that somebody looks after, since an eviction ends the membership of the time that is written here.
pub const MEMBER_SINCE_AHEAD_MS_MAX: u64 = 24 * 3_600_000;

/// How long one that was evicted is tried to be told, in ms: it is told at once when it is up, and most are evicted because they
/// are not.
pub const EVICTED_TOLD_MS: u64 = 10_000;

/// How long nodes with data of their own that are started at the same time, and told to join each other, let one of them take the
/// others in, in ms: a few rounds. Who is told a node that is not there, or hangs, is of use to others after that.
pub const JOIN_RIVALS_MS: u64 = 2_000;

/// How long new nodes that wait for each other in a ring do so, in ms: longer than a chain of them takes, in which one is taken
/// in after the other. So long they found no cluster either when a node has taken their message and did not answer: it may have
/// taken them in.
pub const JOIN_DEADLOCK_MS: u64 = 60_000;

/// New nodes remembered that have asked this one while it is new itself: more than start at once, but no stranger's to fill.
pub const RIVALS_MAX: usize = 1_024;

/// How long a member refuses everything before the log says so, in ms: word of one that joins, leaves or takes another id does
/// not come to all at once.
pub const REFUSED_TOLD_MS: u64 = 10_000;

/// How long the way between this node and a member that is alive fails, in one direction, before the log says so, in ms: who
/// restarts or moves is found again sooner, and who is gone is down by then.
pub const UNREACHED_TOLD_MS: u64 = 10_000;

const _: () = assert!(SWIM_UNHEARD_MS + RETRY_MS.1 < UNREACHED_TOLD_MS);

/// Largest packet: a greeting is answered with the members, 20 bytes each.
pub const SWIM_PACKET_BYTES_MAX: usize = 16 << 10;

/// Packets in one message or answer; a node sends one, and answers with a few.
pub const SWIM_PACKETS_MAX: usize = 64;

/// Packets of this kind under way to others, at most; more are lost, as on any network.
pub const SWIM_UNDER_WAY_MAX: usize = 64;

/// A member that lacks something for longer is said to hold forgetting back: for a moment each does, all the time.
pub const HOLDING_MS: u64 = 5_000;

/// How often a node looks at the roster.
pub const ROSTER_LOOK_MS: u64 = 250;

/// How long a restarted node waits for members that it knows, and again for those that it is told to join by, before it serves
/// without having heard of them.
pub const CONTACT_MS: u64 = 2_000;

/// So many looks at the roster in a row must show another digest under the same vector before it is called a fault.
pub const UNEQUAL_LOOKS: u32 = 20;

/// First and longest pause between comparisons of everything with one member, in ms: what one has not mended, the next one
/// rarely does, and each reads every key.
pub const COMPARE_PAUSE_MS: (u64, u64) = (60_000, 3_600_000);

/// A member that lacks at least so many events, and so many times as many as there are keys, is sent everything instead of the
/// events. A key of a sweep takes about as long as two events; fewer events are over within some seconds either way, and leave
/// the member's log whole.
pub const SWEEP_RATHER_EVENTS: (u64, u64) = (65_536, 4);

/// Longest line of an export: a key travels whole, with as many siblings as several nodes may give it.
pub const LINE_BYTES_MAX: usize = PEER_BODY_BYTES_MAX;

/// Default of `--retry-seconds`: longer than a node takes to stop and start again.
pub const RETRY_SECONDS_DEFAULT: u64 = 30;

/// A node that says nothing for so long in the middle of an answer has lost it, in ms: longer than its slowest commit.
pub const SILENCE_MS: u64 = COMMIT_DEADLINE_MS_DEFAULT + 10_000;

/// Pause between two notes that a node is tried again, in ms: many connections meet the same trouble.
pub const NOTE_PAUSE_MS: u64 = 5_000;

/// Default and most of `--connections`: each has one write under way, and those that wait together share a commit.
pub const IMPORT_CONNECTIONS: (usize, usize) = (64, 1_024);

/// Lines that wait for each connection of an import: keys are spread by hash, so that some have more to do than others.
pub const IMPORT_WAITING_LINES: usize = 32;

/// Lines of an import in memory, in bytes; a longer one has all of it.
pub const IMPORT_BYTES_MAX: usize = 64 << 20;

/// Answer to a write, with its head: a node says less than that.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Bad lines that a dry run names; the others are counted.
pub const BAD_LINES_TOLD: usize = 20;

/// How long a process that must end waits, in ms, until it is on the disk that the node writes under another id: a commit or two.
pub const RENEW_TO_END_MS: u64 = 5_000;

/// Ids that a node gave up and still remembers; older ones stay members until they are evicted. Each goes some seconds after it
/// was given up; so many at a time would take a crash in each start.
pub const FORMER_IDS_MAX: usize = 64;

/// Processes remembered of each peer: a message may be late by some restarts.
pub const RUNS_KEPT: usize = 16;

/// A process that speaks after another of the same peer did, and again so much later, runs beside it, in ms: not sooner, since
/// messages of one that is gone are read for as long as their sender would have waited; not later, since each time may have a
/// reason of its own. Members speak to each other once a minute at least.
pub const TWIN_MS: (u64, u64) = (PEER_ANSWER_MS, 600_000);

/// Events and bytes of a backup that are read between two commits, at most: some milliseconds for which writers wait, once.
pub const BACKUP_LAST_EVENTS: u64 = 512;
/// Bytes of all entries of the last events, about.
pub const BACKUP_LAST_BYTES: usize = 1 << 20;
/// Keys that a backup reads at a time: whoever writes meanwhile waits behind half a millisecond of reading, not several.
pub const BACKUP_KEYS: u64 = 128;
/// Bytes of their entries, about; a larger entry is read alone.
pub const BACKUP_BYTES: usize = 128 << 10;
/// So many times as long as reading some keys took, a backup waits before it reads the next ones: it has a tenth of one
/// processor, and some 40,000 keys a second.
pub const BACKUP_PAUSE: u32 = 10;
/// How often a backup reads all keys anew because the log no longer has what was written meanwhile.
pub const BACKUP_SWEEPS_MAX: u32 = 3;
/// So many bytes of a backup are written before they are put on the disk: what piles up there would hold up the node's own
/// commits, if it is the same disk.
pub const BACKUP_SYNC_BYTES: usize = 1 << 20;
/// Longest block of a backup: an entry is in it whole, with as many siblings as it may have.
pub const BACKUP_BLOCK_BYTES_MAX: usize = PEER_BODY_BYTES_MAX;
/// Backups that a node gives at a time: each reads all keys.
pub const BACKUPS_MAX: usize = 2;
/// How long what happens is kept for a backup that is being read, in ms: longer than one takes, and bounded, since what deletes
/// leave behind is kept as well.
pub const GUEST_STAYS_MS: u64 = 3_600_000;

/// Bytes of values that a salvage checks in nodes that do not hold, to find where the next value begins behind a damaged place:
/// some seconds of work.
pub const SALVAGE_HUNT_BYTES: u64 = 4 << 30;

/// Tries to put the copies of a large value's pieces together, where some of them may be damaged.
pub const SALVAGE_TRIES_MAX: usize = 256;

/// Bad places, keys and the like that a salvage names one by one; more are counted.
pub const SALVAGE_SHOWN_MAX: usize = 100;

/// A directory for a private copy in which nothing is, and that nobody has locked, is somebody's who is just making it, for so
/// long, in ms.
pub const COPY_BEGINS_MS: u64 = 60_000;

/// Rows of a table that are aligned with each other: bounds memory, and how long the first of them waits for the last.
pub const TABLE_ROWS: usize = 1_000;

/// Characters of a value that are shown where several values stand in a list: about three lines of a terminal.
pub const SHOWN_CHARS: usize = 200;
