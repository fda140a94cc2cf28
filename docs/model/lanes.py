#!/usr/bin/env python3
"""A model of docs/delivery.md in random schedules. README.md beside it describes what is checked. The words are those of docs/glossary.md.

--mode embedded has a horizon, --mode kafka has ticks and zombies. (--decide plays decisions, gates and leases; --define stores cut rules with their offsets.)
--mutant NAME breaks a rule on purpose. --old NAME plays a wording that fails. --try NAME plays another rule that holds too.
"""
import argparse, collections, multiprocessing, random, sys, time, traceback

CUT_RULES = [(10, 3, 14, False), (6, 2, 14, False), (15, 3, 9, True)]  # window, packets, bytes, always array
LONGEST, MAX_BODY = 15, 14  # the longest window, the longest body
NEAR, SLICE, CONCURRENCY, TRIES = 12, 4, 2, 3  # records, records a slice, messages in flight, attempts
MAX_AGE, UNKNOWN_WAIT, SEGMENT = 120, 30, 4  # D12, D13, offsets in a segment
GRACE, SESSION, EVER = 2, 40, 1 << 40  # D6: after a window is over; leases (--decide)
WAIT, FLIGHT, BACKOFF, DEAD_LETTERING, EVICTED = "wait", "flight", "backoff", "dead-lettering", "evicted"  # DEAD_LETTERING: the dead letter isn't durable yet
ACTIVE = (FLIGHT, BACKOFF, DEAD_LETTERING)  # keeps its body
MUTANTS = """watermark_ignores_batched_until watermark_ignores_messages restart_ignores_watermark no_fall_back window_not_cleared
refused_is_passed lease_kept settled_before_durable checkpoint_forgets_flight slice_skips_record wake_missed evicts_flight
believes_any_checkpoint suspended_has_memory suspended_keeps_bodies
closes_below_batched_until window_not_restored cut_from_not_restored empty_window_dropped window_not_dead_lettered dead_lettered_not_restored dead_letters_window dead_letters_cut dead_lettered_replay_closes_nothing trims_unsaved expired_not_cut
reload_unsaved reload_at_once reload_from_live definitions_forgotten window_forgets_cut_rules""".split()
ONLY = {"kafka": """closes_after_frame closes_not_at_end closes_not_in_slices closes_one_sided last_believed
send_undecided gate_at_begin gate_of_running_save gate_on_one_message gate_evicted undecided_lane_dropped no_lease""".split(),
        "embedded": "horizon_is_now horizon_behind_end clock_follows_wall clock_starts_at_wall clock_starts_at_last".split()}
OLD = "full unresponsive_has_memory replay_closes_nothing another_log_from_watermark unsaved trimmed_raises_alarm across_kept shape_not_in_id clock split forget_trimmed alarm_repeats watermark_first".split()
TRY = "one_catch_up no_half evict_backoff".split()
ALSO = {"kafka": {"old": ["zombie_believed"], "try": ["confirmed"]}, "embedded": {"old": [], "try": []}}
# The rules of docs/delivery.md are played unless one of these is asked for, or a mutant that only it can have:
DECIDE = set("send_undecided gate_at_begin gate_of_running_save gate_on_one_message gate_evicted undecided_lane_dropped no_lease zombie_believed confirmed".split())
DEFINE = set("alarm_repeats reload_unsaved reload_at_once reload_from_live definitions_forgotten window_forgets_cut_rules".split())


class Failure(Exception):
    pass


def check(ok, kind, *more):
    if not ok:
        raise Failure(kind, " ".join(str(m) for m in more))


class Dice:
    """Random numbers. Each step has its own, so that shrinking can delete steps."""
    def __init__(self, seed):
        self.s = (seed * 2654435761 + 12345) & 0xFFFFFFFFFFFF

    def below(self, n):
        self.s = (self.s * 25214903917 + 11) & 0xFFFFFFFFFFFF
        return (self.s >> 16) % n

    def pick(self, xs):
        return xs[self.below(len(xs))]

    def one_in(self, n):
        return self.below(n) == 0


Rec = collections.namedtuple("Rec", "off group at t size replay")  # at: received_at; t: log time; replay: None or (count, array)


class Log:
    """The log, the committed watermark, and what has really settled."""
    def __init__(self, epoch=0):
        self.recs, self.start, self.end, self.epoch = {}, 0, 0, epoch
        self.all, self.pending, self.tail = {}, [], 0  # all records ever; records with a log time that no reader sees yet
        self.unsettled, self.watermark = set(), 0
        self.by_id = {}  # message id -> (offsets, array)
        self.stale = False  # recreated, and the checkpoint belongs to the old log

    def append(self, group, at, t, size, replay=None, gap=0):
        self.pending.append(Rec(self.tail + gap, group, at + self.epoch / 1000, t, size, replay))
        self.tail += gap + 1

    def publish(self, n=EVER):  # makes the next pending records visible
        for rec in self.pending[:n]:
            self.recs[rec.off] = self.all[rec.off] = rec
            self.end = rec.off + 1
            if rec.group:
                self.unsettled.add(rec.off)
        del self.pending[:n]

    def at_or_after(self, off, end):
        return next((self.recs[o] for o in range(max(off, self.start), end) if o in self.recs), None)

    def lowest(self):
        return min(self.unsettled, default=self.end)

    def trim(self, to):
        for o in range(self.start, to):
            self.recs.pop(o, None)
        self.start = max(self.start, to)


class Msg:
    def __init__(self, group, first, last, count, array, replay=False):
        self.group, self.first, self.last, self.count, self.array, self.replay = group, first, last, count, array, replay
        self.state, self.body, self.held, self.webhook = EVICTED, [], 0, None
        self.attempts, self.started, self.flying = 0, False, False
        self.gate, self.opened = 0, 0  # --decide: the save that must be durable first; its window, for --measure

    def __repr__(self):
        return f"{self.group}{{{self.first}…{self.last} ×{self.count} {'array' if self.array else 'object'}, {self.state}{f' gate {self.gate}' * bool(self.gate)}}}"


class Lane:
    def __init__(self, group, at):
        self.group, self.read_until, self.batched_until = group, at, at
        self.window, self.cut_from, self.window_dead_lettered, self.cut_rules = None, False, False, CUT_RULES[0]
        self.closes, self.decided, self.guess = 0, 0, None  # --decide: the save that holds its last decision
        self.body, self.held, self.webhook = [], 0, None  # the open message
        self.msgs, self.unknown_since, self.dead_lettering, self.kept = [], None, [], None

    def open_bytes(self):  # bytes of the open message, or of the message that is being rebuilt
        return self.held + sum(m.held for m in self.msgs if m.state == EVICTED)

    def __repr__(self):
        return (f"{self.group}(read_until {self.read_until} batched_until {self.batched_until} window {self.window}{'+' * self.cut_from}{' window_dead_lettered' * self.window_dead_lettered}"
                f"{f' decided {self.decided}' * bool(self.decided)} body {self.body} {self.msgs})")


class Webhook:  # a webhook's share of the memory budget, its circuit breaker, and until when it is suspended
    def __init__(self):
        self.held, self.unresponsive, self.full, self.suspended = 0, False, False, 0


class Task:
    """A partition task with its process's memory budget: the rules of one process."""
    def __init__(self, world, checkpoint):
        self.w, self.log, self.x, self.free = world, world.log, world.x, world.memory
        self.lanes, self.webhooks = {}, collections.defaultdict(Webhook)
        self.alarm, self.last, self.was = False, None, 0
        self.begun, self.durable, self.saving, self.saved = 0, 0, None, None  # saves: number begun, number durable, being written, to be committed
        self.lease, self.hung = world.now + SESSION if world.kafka else EVER, []
        self.cut_rules, self.rules_changed = {}, {}  # group -> [(from offset, cut rules)]; the save that holds the last change
        self.expired_below, self.ticked = 0, None
        self.slice = []
        self.cut_of, self.first_started, self.claimed, self.floor = {}, {}, set(), 0  # for the checks
        self.decisions, self.track = [], world.track
        self.start(checkpoint)

    # ---- D10 restart
    def start(self, p):
        log, wm, x = self.log, max(self.log.watermark, self.log.start), self.x
        if p and "believes_any_checkpoint" not in x:
            off, at = p["last"]
            named = off in log.recs and log.recs[off].at == at
            if not named and (off >= log.start or "trimmed_raises_alarm" in x):
                check(p["epoch"] != log.epoch, "false alarm", p["last"], "log starts at", log.start)
                self.alarm, self.w.definitions, log.stale = True, {}, False
                self.w.latest = p if "alarm_repeats" in x else None  # the checkpoint of the other log is dropped
                if "another_log_from_watermark" not in x or wm > log.end:
                    wm = log.start
                    if not x & {"another_log_from_watermark", "unsaved"}:
                        log.watermark = wm
                p = None
            elif not named and (p["live_offset"] < log.start or "forget_trimmed" in x):
                p = None
        self.live_offset = self.floor = wm
        if p:
            self.live_offset, self.last = max(p["live_offset"], wm), p["last"]
            if "restart_ignores_watermark" in x:
                wm, self.live_offset = log.start, p["live_offset"]
            self.claimed = {o for o in log.recs if o < p["live_offset"] and o not in log.unsettled}
        self.cut_rules = {g: list(have) for g, have in self.w.definitions.items() if not x & {"definitions_forgotten", "cut_rules_excused"}}
        self.until = log.end  # the process before may have read up to here
        self.redefine()
        self.w.definitions, self.rules_changed = self.cut_rules_now(), {}  # saved before the first message is sent
        for group, nxt, (window, cut_from, window_dead_lettered, rules), msgs in p["lanes"] if p else []:
            lane = self.lanes[group] = Lane(group, max(nxt, wm))
            if "window_not_restored" not in x:
                lane.window, lane.cut_from, lane.window_dead_lettered = window, cut_from and "cut_from_not_restored" not in x, window_dead_lettered and "dead_lettered_not_restored" not in x
                lane.cut_rules = self.cut_rules[group][-1][1] if x & {"window_forgets_cut_rules", "cut_rules_excused"} and group in self.cut_rules else rules
                lane.closes = self.w.now + lane.cut_rules[0] + self.w.grace
            lane.msgs = [Msg(group, *m) for m in msgs if m[1] >= wm]
            if any(m.first < wm for m in lane.msgs) and "across_kept" not in x:
                lane.msgs, lane.batched_until = [], wm  # the lane is cut anew from the watermark
            for m in lane.msgs:
                self.cut_of.update({o: m for o in self.range(m)})
            self.claimed = {o for o in self.claimed if log.recs[o].group != group or o < lane.batched_until and o not in self.cut_of}
            lane.read_until = min([lane.batched_until] + [m.first for m in lane.msgs])
            lane.unknown_since = None if self.w.route[group] else self.w.now
        self.tidy()

    def range(self, m):
        return [o for o in range(m.first, m.last + 1) if o in self.log.recs and self.log.recs[o].group == m.group
                and bool(self.log.recs[o].replay) == m.replay]

    # ---- D13 cut rules; --define: changed ones count for windows that open at or above the end of the log
    def redefine(self):
        for g, name in self.w.route.items():
            have = self.cut_rules.setdefault(g, []) if name else None
            if name and not (have and have[-1][1] == self.w.cut_rules[name]):
                have.append(((self.live_offset if "reload_from_live" in self.x else self.log.end) if have else 0, self.w.cut_rules[name]))
                self.rules_changed[g] = self.begun + 1
                if self.x & {"reload_at_once", "cut_rules_excused"}:
                    del have[:-1]
                    have[0] = (0, have[0][1])
                    if g in self.lanes:
                        self.lanes[g].cut_rules = have[0][1]

    def cut_rules_now(self):
        return {g: list(have) for g, have in self.cut_rules.items()}

    def cut_rules_of(self, group, off):
        have = self.cut_rules.get(group) or [(0, CUT_RULES[0])]
        return next(rules for since, rules in reversed(have) if since <= off)

    # ---- memory budget
    def webhook(self, lane):
        name = self.w.route[lane.group]
        return self.webhooks[name] if name else None

    def may_begin(self, lane):
        h = self.webhook(lane)
        if h is None or h.suspended > self.w.now and "suspended_has_memory" not in self.x:
            return False
        if h.held <= 0:
            return True
        if h.unresponsive and "unresponsive_has_memory" not in self.x or h.full and ("full" not in self.x or lane.read_until < self.was):
            return False
        return h.held * 8 < self.free

    def lease_memory(self, owner, lane, size):
        owner.webhook, owner.held = self.w.route[lane.group], owner.held + size
        self.webhooks[owner.webhook].held += size
        self.free -= size

    def release(self, owner):
        if owner.held:
            h = self.webhooks[owner.webhook]
            h.held, self.free = h.held - owner.held, self.free + owner.held
            owner.held = owner.held if "lease_kept" in self.x else 0
            if (h.held == 0 or h.held * 16 < self.free) and "wake_missed" not in self.x:  # D5
                h.full = False

    # ---- D6 (a): at each record, before it is offered
    def close_by_record(self, rec, lanes):
        for l in lanes:
            away = rec.t - l.window if l.window is not None and (rec.off >= l.batched_until or "closes_below_batched_until" in self.x) else 0
            if (away if "closes_one_sided" in self.x else abs(away)) >= l.cut_rules[0]:
                self.w.stats["closed by a record"] += 1
                self.close(l)
            if l.guess and rec.off >= l.batched_until:  # "confirmed": it was no decision if a record closes the window too
                if "confirmed" in self.x and abs(rec.t - l.guess[0]) >= l.guess[1]:
                    for m in l.msgs:
                        m.gate = 0 if m.gate == l.decided else m.gate
                    l.decided = 0
                l.guess = None

    # ---- D1, D2, D3: a record is offered to its lane. False: refused
    def offer(self, lane, rec, far=False):
        m = next((m for m in lane.msgs if m.state == EVICTED and m.first <= rec.off <= m.last and bool(rec.replay) == m.replay), None)
        dead = self.is_unknown(lane) or far and self.old(rec)
        # D12: an expired packet of a group with a webhook is cut as any other, whether a message may begin or not
        cuts = dead and not rec.replay and not self.is_unknown(lane) and self.webhook(lane) is not None and "expired_not_cut" not in self.x
        dead = dead and not (cuts and rec.off >= lane.batched_until)
        if rec.off < lane.batched_until:  # below batched_until a lane only rebuilds evicted messages
            if m and not m.body and dead:
                return self.dead_letter_message(lane, m)
            if m and not m.body and not self.may_begin(lane):
                return self.refuse(lane, rec)
            if m:
                m.body.append(rec.off)
                self.lease_memory(m, lane, rec.size)
                if rec.off == m.last:
                    m.state = WAIT
                    self.note(m)
            return True
        if rec.replay and lane.dead_lettering and not dead:
            return False
        if rec.replay:  # D15
            if "replay_closes_nothing" not in self.x and not (dead and "dead_lettered_replay_closes_nothing" in self.x):
                self.close(lane)
            elif any(m.first == rec.off for m in lane.msgs):
                return True
            if dead:
                return self.dead_letter_record(lane, rec)
            if not self.may_begin(lane):
                return self.refuse(lane, rec)
            m = Msg(lane.group, rec.off, rec.off, rec.replay[0], rec.replay[1], True)
            m.body, m.state = [rec.off], WAIT
            self.lease_memory(m, lane, rec.size)
            return self.add(lane, m)
        if lane.dead_lettering and not (dead or lane.window_dead_lettered):
            return False
        if (dead or lane.window_dead_lettered) and (not lane.body or self.x & {"split", "dead_letters_cut"}):
            return self.dead_letter_record(lane, rec)  # D12: an open message is finished first
        if lane.body and lane.held + rec.size > lane.cut_rules[2]:
            self.cut(lane, True)
        if not lane.body and not cuts and not self.may_begin(lane):
            return self.refuse(lane, rec)
        if lane.window is None:
            self.open(lane, rec)
        if not lane.body:
            lane.batched_until = rec.off
        lane.body.append(rec.off)
        self.lease_memory(lane, lane, rec.size)
        if len(lane.body) >= lane.cut_rules[1]:
            self.cut(lane, True)
        return True

    def open(self, lane, rec):
        lane.window, lane.cut_from, lane.cut_rules = rec.t, False, self.cut_rules_of(lane.group, rec.off)
        lane.closes = self.w.now + lane.cut_rules[0] + self.w.grace

    def cut(self, lane, array):
        m = Msg(lane.group, lane.body[0], lane.body[-1], len(lane.body), array or lane.cut_from or len(lane.body) > 1 or lane.cut_rules[3])
        m.body, m.state, m.webhook, m.held, m.opened = lane.body, WAIT, lane.webhook, lane.held, lane.window
        lane.body, lane.held, lane.cut_from = [], 0, True
        self.add(lane, m)

    def add(self, lane, m):
        for o in m.body:
            check(o not in self.cut_of, "record in two messages", o, m, self.cut_of.get(o))
            self.cut_of[o] = m
        if not lane.body:
            lane.batched_until = m.last + 1
        m.gate = lane.decided
        lane.msgs = sorted(lane.msgs + [m], key=lambda m: m.first)
        self.note(m)
        return True

    def note(self, m):  # the same id: the same packets in the same shape
        check(len(m.body) == m.count or m.replay, "rebuilt with other packets", m, m.body)
        packets, array = self.log.by_id.setdefault(self.id_of(m), (tuple(m.body), m.array))
        check(packets == tuple(m.body), "same id, other packets", m, packets, m.body)
        check(array == m.array, "same id, other shape", m)

    def id_of(self, m):
        return (m.group, m.first, self.log.all[m.first].at, m.last, m.count, "shape_not_in_id" in self.x or m.array)

    def close(self, lane):
        if lane.body:
            self.cut(lane, False)
        if "window_not_cleared" not in self.x:
            lane.window, lane.cut_from, lane.window_dead_lettered = None, False, False

    def refuse(self, lane, rec, m=None):
        h = self.webhook(lane)
        if h:
            h.full = "no_half" not in self.x and h.suspended <= self.w.now
        if "refused_is_passed" in self.x:
            return True
        check(not lane.body, "refused in the middle", lane)
        return False

    def evict(self, lane):
        """D3: each message that isn't active loses its body; outstanding messages stay outstanding."""
        self.release(lane)
        had, lane.body = bool(lane.body), []
        for m in lane.msgs:
            if m.state not in ACTIVE or "evicts_flight" in self.x and m.state == FLIGHT:
                self.release(m)
                m.body, m.state, m.gate = [], EVICTED, m.gate * ("gate_evicted" not in self.x)
        if "no_fall_back" not in self.x:
            lane.read_until = min([lane.read_until] + [lane.batched_until] * had + [m.first for m in lane.msgs if m.state == EVICTED])

    # ---- D12, D13: catch-up reads write dead letters, whatever the memory budget
    def old(self, rec):
        return self.w.expiry and rec.at < self.w.now - MAX_AGE or rec.off < self.expired_below

    def is_unknown(self, lane):
        return lane.unknown_since is not None and self.w.now >= lane.unknown_since + UNKNOWN_WAIT

    def is_beyond(self, off):
        return self.old(self.log.all[off])

    def dead_letter_message(self, lane, m):  # an outstanding message goes whole
        self.w.any_dead_lettered = True
        list(self.w.one_id(self, self.range(m), self.id_of(m)))  # its replay brings the id back
        self.log.unsettled.difference_update(self.range(m))
        self.release(m)
        lane.msgs.remove(m)
        return True

    def dead_letter_record(self, lane, rec):  # in no message: its window becomes a dead-lettered window
        self.w.any_dead_lettered = True
        has_id = (self.track, self.log.epoch, rec.off) in self.w.ids
        check(rec.replay or not has_id or self.w.redefined, "a dead letter without the id that its record was sent under", rec.off)
        if lane.body:
            self.cut(lane, False)
        if not lane.dead_lettering:  # `batched_until` stays here until the dead letters are durable: the checkpoint names this window
            lane.batched_until, lane.kept = rec.off, (lane.window, lane.cut_from, lane.window_dead_lettered)
        if not rec.replay and "split" not in self.x:
            if lane.window is None:
                self.open(lane, rec)
            self.w.stats["dead-lettered windows"] += not lane.window_dead_lettered
            lane.window_dead_lettered = "window_not_dead_lettered" not in self.x
        lane.dead_lettering.append(rec.off)
        return True

    def dead_letters_durable(self, lane):  # D12
        self.log.unsettled.difference_update(lane.dead_lettering)
        lane.batched_until, lane.dead_lettering = max(lane.batched_until, lane.dead_lettering[-1] + 1, lane.read_until if lane.read_until > lane.dead_lettering[-1] else 0), []
        self.tidy()

    def expire_below(self, to):  # D12, embedded: the oldest segment expires
        self.expired_below = to
        self.tidy()

    # ---- live reading
    def read_live(self, n=1):
        """Reads one frame of n records."""
        rec = None
        for _ in range(n):
            found = self.log.at_or_after(self.live_offset, self.log.end)
            if found is None:
                break
            rec = found
            lane = self.lanes.get(rec.group)
            live = [l for l in self.lanes.values() if l.read_until >= self.live_offset and not l.dead_lettering]
            own = "closes_after_frame" in self.x or "closes_not_at_end" in self.x and rec.off + 1 == self.log.end
            self.close_by_record(rec, [l for l in live if l is lane or not own and "clock" not in self.x or "clock" in self.x and rec.off + 1 < self.log.end])
            if lane is None and rec.group:
                lane = self.lanes[rec.group] = Lane(rec.group, rec.off)
                lane.unknown_since = None if self.w.route[rec.group] else self.w.now
                live.append(lane)
            self.was, self.live_offset, self.last = self.live_offset, rec.off + 1, (rec.off, rec.at)
            for l in live:
                if l is not lane or self.offer(l, rec):
                    self.advance(l, self.live_offset)
        if rec and "closes_after_frame" in self.x:
            self.close_by_record(rec._replace(off=self.live_offset), [l for l in self.lanes.values() if l.read_until >= self.live_offset])
        self.tidy()
        return rec

    def advance(self, lane, to):
        lane.read_until = max(lane.read_until, to)
        if not lane.body and not lane.dead_lettering:
            lane.batched_until = max(lane.batched_until, lane.read_until)

    def close_due(self):  # D6 (b), (c), at the end of the log
        sure = self.w.horizon()
        for l in self.lanes.values() if self.live_offset == self.log.end or "horizon_behind_end" in self.x else []:
            if l.read_until != self.live_offset or l.window is None or l.dead_lettering:
                continue
            if "clock" in self.x:
                if self.w.now >= l.closes:
                    self.close(l)
            elif sure is not None:
                if sure >= l.window + l.cut_rules[0]:
                    self.w.stats["closed by the horizon"] += 1
                    self.close(l)
            elif self.w.now >= l.closes and "tick" not in self.x:
                self.decide(l)
            elif self.w.now >= l.closes and (self.ticked is None or self.ticked < self.live_offset):
                self.ticked = self.log.tail
                self.w.stats["ticks"] += 1
                self.w.put(None, self.w.now, 0)
            self.advance(l, self.live_offset)
        self.tidy()

    def decide(self, lane):
        self.w.stats["decisions"] += 1
        lane.guess = (lane.window, lane.cut_rules[0]) if lane.decided <= self.durable else None
        lane.decided = self.begun + (not (self.saving and "gate_of_running_save" in self.x))
        self.decisions.append((lane.group, self.live_offset, lane.decided))
        self.close(lane)
        if "gate_on_one_message" in self.x:
            lane.decided = 0

    # ---- D4 catch-up reads
    def wants(self, lane, far):
        if lane.dead_lettering:
            return lane in self.slice and lane.read_until < self.live_offset
        if lane.read_until >= self.live_offset or self.is_unknown(lane) or lane.window_dead_lettered:
            return lane.read_until < self.live_offset
        if far and (self.w.expiry or self.expired_below):
            rec = next((self.log.recs[o] for o in range(lane.read_until, self.log.end) if o in self.log.recs and self.log.recs[o].group == lane.group), None)
            if rec and self.old(rec):
                return True
        return self.webhook(lane) is not None and (lane.open_bytes() > 0 or self.may_begin(lane))

    def catch_up(self, kind):
        """One slice: from the smallest `read_until` of its lanes towards the live offset, with every lane on its way."""
        if kind == "far" and "one_catch_up" in self.x:
            return
        self.slice = []
        self.was, far, pos, rec = self.live_offset, kind == "far" or "one_catch_up" in self.x, None, None
        for _ in range(SLICE):
            goal = min((l.read_until for l in self.lanes.values() if self.wants(l, far) and (
                l.read_until >= pos if pos is not None else self.starts(l, far))), default=None)
            if goal is None:  # no lane goes on
                break
            rec = self.log.at_or_after(goal, self.live_offset)
            upto = rec.off if rec else self.live_offset
            mine = [l for l in self.lanes.values() if goal <= l.read_until <= upto and self.wants(l, far)]
            if rec:
                own = self.x & {"closes_after_frame", "closes_not_in_slices"}
                self.close_by_record(rec, [l for l in mine if not own or l.group == rec.group])
            for l in mine:
                if not rec or l.group != rec.group or self.offer(l, rec, far):
                    self.slice += [l] * bool(l.dead_lettering)
                    self.advance(l, min(upto + 1 + ("slice_skips_record" in self.x), self.live_offset))
                if far:  # D12: a message of expired packets is a dead letter once it is cut
                    for m in [m for m in l.msgs if m.state == WAIT and self.is_beyond(m.first) and not m.replay]:
                        self.dead_letter_message(l, m)
            pos = upto + 1
        if rec and "closes_after_frame" in self.x:
            self.close_by_record(rec._replace(off=pos), [l for l in self.lanes.values() if l.read_until == pos])
        self.tidy()

    def starts(self, lane, far):
        return "one_catch_up" in self.x or (lane.read_until < self.live_offset - NEAR) == far or far and (self.w.expiry or self.expired_below)

    # ---- sending
    def all(self, state, name):
        return [m for l in self.lanes.values() for m in l.msgs if m.state == state and m.webhook == name]

    def may_send(self, m):  # --decide: gates and leases
        if m in self.hung:
            return True
        if self.w.now >= self.lease and not self.x & {"no_lease", "tick"}:
            return False
        return ((m.gate <= self.durable or "send_undecided" in self.x)
                and (self.rules_changed.get(m.group, 0) <= self.durable or self.x & {"reload_unsaved", "cut_rules_excused"}))

    def ready(self):
        out = []
        for lane in self.lanes.values():
            name = self.w.route[lane.group]
            h = self.webhook(lane)
            if h and h.suspended <= self.w.now and len(self.all(FLIGHT, name)) < (1 if h.unresponsive else CONCURRENCY):
                m = next((m for m in lane.msgs if m.state == WAIT), None)
                if m and not (h.unresponsive and self.all(BACKOFF, name)):
                    out.append(m)
                out += [m for m in lane.msgs if m.state == BACKOFF and m.webhook == name]
        return [m for m in out if self.may_send(m)]

    def dispatch(self, m):
        check(not self.claimed.intersection(m.body), "sent again though the checkpoint lists it as settled", m)
        check(m.first >= self.floor, "sends a record below the watermark", m, self.floor)
        check(not m.flying, "in flight twice", m)
        check(self is not self.w.task or all(o in self.log.recs for o in m.body), "sends a record that is not in the log", m)
        check(self.webhook(self.lanes[m.group]).suspended <= self.w.now, "starts though its webhook is suspended", m)
        if not m.started:
            check(m.first > self.first_started.get(m.group, -1), "first started out of order", m, self.first_started.get(m.group))
            self.first_started[m.group] = m.first
        m.state, m.started, m.flying = FLIGHT, True, True
        self.w.sent(self, m)

    def outcome(self, m, how):  # accepted, error, busy (an error that is retried and suspends the webhook), none
        lane, h, m.flying = self.lanes[m.group], self.webhooks[m.webhook], False
        if how == "none":
            m.attempts, h.unresponsive = m.attempts + 1, True
            again = m.attempts < TRIES and self.w.route[m.group] == m.webhook
            kept = again and not self.all(BACKOFF, m.webhook) and "evict_backoff" not in self.x
            m.state = DEAD_LETTERING if m.attempts >= TRIES else BACKOFF if kept else EVICTED
            for l in self.lanes.values():
                if l is lane or self.webhook(l) is h:
                    self.evict(l)
            return
        if h.unresponsive:
            h.unresponsive = h.full = False  # D5
        if how == "busy":  # D19
            m.attempts, h.suspended = m.attempts + 1, max(h.suspended, self.w.now + 1 + m.first % 8)
            m.state = DEAD_LETTERING if m.attempts >= TRIES else EVICTED
            for l in self.lanes.values():
                if l is lane or self.webhook(l) is h:
                    for b in [b for b in l.msgs if b.state == BACKOFF]:
                        b.state = EVICTED
                    if "suspended_keeps_bodies" not in self.x or l is lane:
                        self.evict(l)
            return
        m.state = DEAD_LETTERING
        if how == "accepted":
            self.settle(m)
        elif "settled_before_durable" in self.x:
            self.settle(m, False)

    def settle(self, m, durable=True):  # D7: accepted, or its dead letter is durable
        if durable:
            self.log.unsettled.difference_update(m.body)
        self.release(m)
        self.lanes[m.group].msgs.remove(m)
        self.tidy()

    def tidy(self):
        for l in self.lanes.values() if self.expired_below else []:  # a message that begins in an expired segment goes whole, active or not
            for m in [m for m in l.msgs if m.first < self.expired_below]:
                self.dead_letter_message(l, m)
        self.lanes = {g: l for g, l in self.lanes.items() if l.read_until < self.live_offset or l.msgs or l.body or l.dead_lettering
                      or l.window is not None and ("empty_window_dropped" not in self.x or l.window_dead_lettered)
                      or l.decided > self.durable and "undecided_lane_dropped" not in self.x}

    # ---- D8, D9
    def watermark(self):
        w = [self.live_offset]
        for l in self.lanes.values():
            if (l.body or l.dead_lettering or l.batched_until < self.live_offset) and "watermark_ignores_batched_until" not in self.x:
                w.append(l.batched_until)
            w += [m.first for m in l.msgs if "watermark_ignores_messages" not in self.x]
        return min(w)

    def checkpoint(self):
        lanes = [(l.group, l.batched_until, (*(l.kept if l.dead_lettering and "dead_letters_window" not in self.x else (l.window, l.cut_from, l.window_dead_lettered)), l.cut_rules), [(m.first, m.last, m.count, m.array, m.replay) for m in l.msgs
                 if not (m.state == FLIGHT and "checkpoint_forgets_flight" in self.x)]) for l in self.lanes.values()]
        outstanding = {o for l in self.lanes.values() for m in l.msgs for o in self.range(m)}
        bad = [o for o in self.log.unsettled if o < self.live_offset and o not in outstanding and not (
            self.log.recs[o].group in self.lanes and o >= self.lanes[self.log.recs[o].group].batched_until)]
        check(not bad, "the checkpoint lists an unsettled record as settled", bad)
        return {"live_offset": self.live_offset, "last": self.last, "epoch": self.log.epoch, "lanes": lanes, "watermark": self.watermark(), "cut_rules": self.cut_rules_now(),
                "track": self.track, "config": len(self.w.configs) - 1}

    def invariants(self):
        w, held, strict = self.watermark(), collections.Counter(), not self.x & {"replay_closes_nothing"}
        check(w <= self.log.lowest(), "watermark above an unsettled record", w, self.log.lowest())
        for l in self.lanes.values():
            for owner in [l] + l.msgs:
                held[owner.webhook] += owner.held
            check(l.read_until <= self.live_offset, "read_until beyond the live offset", l)
            check(not strict or not l.body or l.batched_until == l.body[0] and l.read_until > l.body[-1], "open message out of place", l)
            for m in l.msgs if strict else []:
                check(m.state != EVICTED or not m.body or m.first < l.read_until <= m.last + 1, "half rebuilt, but not open", l)
                check(m.state != WAIT or m.last < l.read_until, "body above read_until", l)
        for n, h in list(self.webhooks.items()):
            check(h.held == held[n] >= 0, "leases", n, h.held, dict(held))
            check(not h.full or h.held, "refuses though it holds nothing", n)
            expires = self.is_beyond
            loose = sum(l.held * (not l.body or not expires(l.body[0])) + sum(m.held for m in l.msgs if m.state not in ACTIVE and not expires(m.first))
                        for l in self.lanes.values() if self.webhook(l) is h)
            check(not h.unresponsive or loose <= MAX_BODY + 16, "an unresponsive webhook holds too much", n, loose)
            check(h.suspended <= self.w.now or not loose, "a suspended webhook holds bodies", n, loose)
        check(self.free == self.w.memory - sum(held.values()), "memory budget", self.free, dict(held))


class World:
    """The log, the customers, the clocks, crashes, zombies, and the dice."""
    def __init__(self, seed, x, trace=None):
        d = Dice(seed)
        self.x, self.now, self.log, self.trace, self.records, self.kafka = x, 1000, Log(), trace, {}, "kafka" in x
        self.memory, webhooks = d.pick([6, 30, 60, 200, 1000]), ["P", "Q", "R"][:1 + d.below(3)]
        self.groups = ["a", "b", "c", "d"][:1 + d.below(4)]
        self.home = {g: d.pick(webhooks) for g in self.groups}
        self.route, self.cut_rules = dict(self.home), {n: d.pick(CUT_RULES[:1] * 3 + CUT_RULES) for n in "PQR"}
        self.crash, self.zombies, self.replay, self.expiry, self.segment_expiry = d.pick([0, 1, 1, 3]), d.one_in(3), d.one_in(3), d.one_in(4), d.one_in(6)
        self.reload, self.gaps, self.skew, self.remake, self.evicting = d.one_in(4), d.one_in(4), d.one_in(3), d.one_in(5), d.one_in(3)
        self.late, self.history, self.zombie, self.remade = d.pick([0, 0, 6, 25]), [], None, False
        self.zombies, self.segment_expiry = self.zombies and self.kafka, self.segment_expiry and not self.kafka
        self.steps, self.stalls, self.flow, self.careless, self.eager = d.one_in(2), d.pick([0, 2, 8]), d.one_in(2), d.one_in(3), d.one_in(2)
        self.grace = GRACE
        self.base, self.since, self.wall, self.broker = self.now, self.now, 0, 0  # clocks, against `now`
        self.latest, self.definitions = None, {}  # durable: the owner's latest checkpoint; the cut rules (--define)
        self.track, self.aside, self.redefined, self.any_dead_lettered = 0, -1, False, False
        self.ids, self.ever, self.messages, self.decided, self.stats = {}, {}, set(), [], collections.Counter()
        self.configs = []
        self.configs.append(self.config())  # all cut rules that were in force (excuse 3)
        self.task = self.first = Task(self, None)

    # ---- clocks
    def log_time(self):
        if self.kafka:
            return self.now + self.broker
        return self.now + self.wall if "clock_follows_wall" in self.x else self.base + self.now - self.since

    def horizon(self):  # no record that becomes visible later has a smaller t
        if self.kafka:
            return None
        return min(r.t for r in self.log.pending) if self.log.pending and "horizon_is_now" not in self.x else self.log_time()

    def restart_clock(self):  # log time starts above the end of every window that was open
        last = max((r.t for r in self.log.recs.values()), default=0) + LONGEST * ("clock_starts_at_last" not in self.x)
        self.base, self.since = max(self.now + self.wall, last * ("clock_starts_at_wall" not in self.x)), self.now

    # ---- the check that each record is sent under one id
    def one_id(self, task, records, mid):
        for o in records:
            one, by = self.ids.setdefault((task.track, self.log.epoch, o), (mid, task))
            check(one == mid, "one record, two message ids", o, one, mid)
            yield o, by

    def sent(self, task, m):
        mid = task.id_of(m)
        self.messages.add((m.group, tuple(m.body), m.array))
        self.stats["sent"] += len(m.body)
        for o, by in self.one_id(task, m.body, mid):
            self.stats["sent again by another process"] += by is not task
            every = self.ever.setdefault((self.log.epoch, o), {mid})
            self.stats["excused"] += mid not in every
            every.add(mid)

    def tell(self, what):
        if self.trace is not None:
            self.trace.append(what())

    def commit(self, value):
        check(value <= self.log.lowest(), "committed above an unsettled record", value, self.log.lowest())
        self.log.watermark = value

    # ---- D9: a save begins, is durable, and then (kafka) its commit is accepted
    def begin(self, task):
        if task.saving or task.last is None:  # no record was passed yet
            return
        if "watermark_first" in self.x and task is self.task:
            self.commit(task.watermark())
        task.begun += 1
        task.saving = (task.begun, task.checkpoint())
        if "gate_at_begin" in self.x:
            task.durable = task.begun

    def land(self, task):
        if not task.saving:
            return
        number, checkpoint = task.saving
        task.saving, task.saved, task.named = None, checkpoint["watermark"], checkpoint
        self.history.append(checkpoint)
        task.durable = max(task.durable, number)
        if "last_believed" in self.x:
            self.latest = checkpoint
        if task is self.task:
            self.latest, self.definitions = self.latest if "tick" in self.x else checkpoint, checkpoint["cut_rules"]
            self.decided += [(g, at) for g, at, gate in task.decisions if gate <= number]
            task.decisions = [d for d in task.decisions if d[2] > number]
        else:
            self.stats["zombie's checkpoint"] += 1
            if "zombie_believed" in self.x:
                self.latest = checkpoint
        if not self.kafka:
            self.confirm(task)
        task.tidy()

    def confirm(self, task):
        if task is self.task and task.saved is not None:  # kafka refuses a zombie's commit
            self.commit(task.saved)
            if "tick" in self.x:  # the commit names its checkpoint: the next owner reads that one
                self.latest = task.named
            task.saved, task.lease = None, max(task.lease, self.now + SESSION)

    def put(self, group, at, size, replay=None, gap=0):
        self.log.append(group, at, self.log_time(), size, replay, gap)

    def append(self, d):
        self.now += d.below(3) * self.flow
        at = self.now - (d.below(self.late) if self.late else 0) + (d.below(40) - 20 if self.skew and d.one_in(4) else 0)
        replay = (1 + d.below(3), d.one_in(2)) if self.replay and d.one_in(5) else None
        self.put(d.pick(self.groups), at, d.pick([1, 1, 1, 2, 3, 5, 16]), replay, self.gaps and d.one_in(4))
        if not self.stalls or d.one_in(self.stalls):
            self.log.publish()

    def restart(self, d):
        p, which = self.latest, d.below(6) if self.careless and "last_believed" not in self.x else 0  # the latest checkpoint, an older one, none
        if which >= 3:
            p = d.pick(self.history) if which < 5 and self.history else None
        if self.log.stale and p is None:  # a missing checkpoint of a recreated log isn't played
            p = self.history[-1]
        if self.reload and d.one_in(3) and not (self.zombie and "tick" in self.x and "cut_rules_excused" not in self.x):  # a zombie with other cut rules: only a lease stops it
            self.cut_rules[d.pick("PQR")], self.redefined = d.pick(CUT_RULES), True
            self.configs.append(self.config())
        behind = p and p["epoch"] == self.log.epoch and p["watermark"] < self.log.watermark
        if behind and "last_believed" not in self.x or self.differ(p["config"] if p else 0) or p is not self.latest and not self.harmless(p):
            self.track, self.stats["restarts with an excuse"] = self.track + 1, self.stats["restarts with an excuse"] + 1
            self.latest = p
        self.stats["restarts"] += 1
        if not self.kafka:
            self.restart_clock()
        self.tell(lambda: f"  start from {p}, watermark {self.log.watermark}, log starts at {self.log.start}, cut_rules {self.cut_rules}, track {self.track}")
        self.task = Task(self, p)

    def config(self):
        return {**(self.configs[-1] if self.configs else {}), **{g: self.cut_rules[name] for g, name in self.route.items() if name}}

    def differ(self, since):
        """Excuse 3: cut rules have changed since."""
        since = self.configs[since:]
        return "cut_rules_excused" in self.x and any(c[g] != d[g] for c in since for d in since for g in c.keys() & d.keys())

    def harmless(self, p):
        """An older checkpoint of the same log is no excuse: the log and the cut rules decide alone."""
        return p and self.latest and (not self.kafka or "tick" in self.x) and p["epoch"] == self.log.epoch and p["track"] == self.track

    def step(self, seed):
        d = Dice(seed)
        task = self.zombie if self.zombie and d.one_in(3) else self.task
        act = d.pick(["append", "live", "send", "outcome"] * 4 + ["near", "far", "time", "durable", "save", "save"] * 2 + ["commit", "trim", "trim"]
                     + ["run"] * 12 * self.eager + ["publish"] * 2 * bool(self.stalls) + ["clock"] * self.steps
                     + ["crash"] * self.crash + ["hand over"] * self.zombies + ["zombie ends"] * bool(self.zombie) + ["reload"] * self.reload
                     + ["evict"] * self.evicting + ["expire segment"] * self.segment_expiry + ["remake"] * (self.remake and bool(self.history)))
        msgs, note, end = (lambda s: [m for l in task.lanes.values() for m in l.msgs if m.state == s]), "", self.log.tail
        if act == "append":
            for _ in range(1 + d.below(3)):
                self.append(d)
            note = [tuple(r) for r in [*self.log.recs.values(), *self.log.pending] if r.off >= end] if self.trace is not None else ""
        elif act == "publish":
            self.log.publish(1 + d.below(4))
            note = f"up to {self.log.end}"
        elif act == "live":
            task.read_live(1 + d.below(4))
            if d.one_in(3):
                task.close_due()
        elif act in ("near", "far"):
            task.catch_up(act)
        elif act == "run":  # the steps of a running process
            self.append(d)
            self.now += d.below(8)
            task.read_live(1 + d.below(4)), task.close_due(), task.catch_up("near"), task.catch_up("far")
            for m in task.ready():
                if m in task.ready():
                    note += repr(m)
                    task.dispatch(m)
            for m in msgs(FLIGHT):
                if d.one_in(2):
                    task.outcome(m, "accepted")
        elif act == "time":
            self.now += 60 if d.one_in(8) else 1 + d.below(12)
            task.close_due()
        elif act == "clock" and self.kafka:
            self.broker += d.pick([-12, -4, -1, 1, 4, 12])
            note = self.broker
        elif act == "clock":
            self.wall += d.pick([-40, -40, -12, -3, 3, 12, 40])
            note = self.wall
        elif act == "send":
            for m in task.ready()[:1 + d.below(2)]:
                if m in task.ready():
                    note += repr(m) * (self.trace is not None)
                    task.dispatch(m)
        elif act == "outcome" and msgs(FLIGHT):
            m, how = d.pick(msgs(FLIGHT)), d.pick(["accepted", "accepted", "error", "busy", "none", "none"])
            note = f"{m} {how}"
            task.outcome(m, how)
        elif act == "durable" and any(l.dead_lettering for l in task.lanes.values()) and d.one_in(2):
            task.dead_letters_durable(d.pick([l for l in task.lanes.values() if l.dead_lettering]))
        elif act == "durable" and msgs(DEAD_LETTERING):
            task.settle(d.pick(msgs(DEAD_LETTERING)))
        elif act == "save" and task.saving:
            note = f"{task.saving[0]} is durable"
            self.land(task)
            if not d.one_in(3):
                self.confirm(task)
        elif act == "save":
            self.begin(task)
            note = f"begins: {task.saving}" * (self.trace is not None)
        elif act == "commit":
            self.confirm(self.task)
        elif act == "trim" and not self.zombie:
            to = self.task.watermark() if "trims_unsaved" in self.x else self.log.watermark
            self.log.trim(to if d.one_in(2) else to // SEGMENT * SEGMENT)
        elif act == "crash":
            self.zombie = self.zombie if d.one_in(2) else None
            if d.one_in(2):  # the save that was being written is durable
                self.land(self.task)
            if not self.kafka:  # pending records are lost
                self.log.publish(d.below(1 + len(self.log.pending)))
                self.log.pending, self.log.tail = [], self.log.end
            self.restart(d)
        elif act == "hand over":  # D11, in order or not: the old owner goes on as a zombie
            if d.one_in(2):
                self.land(self.task)
                if not d.one_in(4):
                    self.begin(self.task), self.land(self.task), self.confirm(self.task)
                self.task.lease = 0
            else:  # --decide: its writes may hang since before its lease ended
                self.task.hung, self.now = self.task.ready()[:d.below(3)], max(self.now, self.task.lease)
            self.zombie = self.task
            self.restart(d)
        elif act == "zombie ends":
            self.task.until, self.zombie = max(self.task.until, self.zombie.live_offset), None
        elif act == "reload":
            touched, self.redefined = [d.pick(self.groups)], True
            if d.one_in(2):
                self.route[touched[0]] = d.pick(["P", "Q", "R", None])
            else:
                name = d.pick("PQR")
                self.cut_rules[name], touched = d.pick(CUT_RULES), [g for g in self.groups if self.route[g] == name]
            note = f"{self.route} {self.cut_rules}"
            self.configs.append(self.config())
            t = self.task
            far = max(t.until, self.zombie.live_offset if self.zombie else 0)  # another process may have sent messages below this offset
            if self.differ(-2) and (t.live_offset < far or any(min([l.read_until] + l.body) < far for l in t.lanes.values())):
                self.track = t.track = self.track + 1
            z = self.zombie
            before = z and {g: have[-1][1] for g, have in z.cut_rules.items() if have}
            for t in filter(None, (self.task, self.zombie)):
                for l in [t.lanes[g] for g in touched if g in t.lanes]:  # each message that isn't in flight is evicted
                    for m in l.msgs:
                        if m.state == BACKOFF:
                            m.state = WAIT
                    t.evict(l)
                    l.unknown_since = None if self.route[l.group] else self.now
                t.redefine()
            if z and "cut_rules_excused" in self.x and any(z.cut_rules[g][-1][1] != rules for g, rules in before.items()):
                z.track, self.aside = self.aside, self.aside - 1  # its later cuts are excused
        elif act == "evict" and msgs(WAIT):
            m = d.pick([m for m in msgs(WAIT) if m.gate > task.durable] or msgs(WAIT))
            note = repr(m)
            task.evict(task.lanes[m.group])
        elif act == "expire segment" and self.log.end - self.log.start > 3:
            task.expire_below(min((self.log.start // SEGMENT + 1) * SEGMENT, self.log.end))
        elif act == "remake":  # the topic is recreated under the same name
            old, self.log, self.remade, self.zombie = self.log, Log(self.log.epoch + 1), True, None
            self.log.watermark, self.now, self.log.stale = old.watermark, self.now + 1, True
            for _ in range(d.below(20)):
                self.append(d)
            self.restart(d)
        self.tell(lambda: f"t={self.now} {'zombie ' * (task is self.zombie)}{act} {note}")
        self.check()

    def check(self):
        check(self.log.watermark <= self.log.lowest() or self.remade, "committed above an unsettled record", self.log.watermark)
        for t in filter(None, (self.task, self.zombie)):
            t.invariants()
        self.records.update(self.log.recs)

    def round(self, d, dead, hang, slow):
        """One round of the steps of a running process."""
        t = self.task
        self.log.publish(d.below(4) if self.stalls and slow else EVER)
        for act in d.pick(["live near far send", "far near send live", "send near far live"]).split():
            if act == "live":
                t.read_live(3)
            elif act == "send":
                for m in t.ready():
                    if m in t.ready():
                        t.dispatch(m)
            else:
                t.catch_up(act)
        self.now += 2
        t.close_due()
        self.land(t), self.confirm(t), self.begin(t)
        for l in [l for l in t.lanes.values() if l.dead_lettering]:
            t.dead_letters_durable(l)
        for m in [m for l in list(t.lanes.values()) for m in l.msgs]:
            if m.state == FLIGHT and m.webhook == dead:
                if not hang and d.one_in(2):
                    t.outcome(m, "none")
            elif m.state == FLIGHT and not (slow and d.one_in(2)):
                t.outcome(m, "accepted")
            elif m.state == DEAD_LETTERING:
                t.settle(m)
        self.tell(lambda: f"t={self.now} round: live_offset {t.live_offset} free {t.free} "
                          f"{[(n, h.held, h.unresponsive, h.full) for n, h in t.webhooks.items()]} {list(t.lanes.values())}")
        self.check()

    def drain(self, seed):
        d, t, self.zombie = Dice(seed), self.task, None
        self.tell(lambda: "--- one customer stays dead, the others answer, traffic goes on")
        dead, hang = d.pick(sorted(set(filter(None, self.route.values()))) or ["P"]), d.one_in(2)
        stuck = {m.group for l in t.lanes.values() for m in l.msgs if m.webhook == dead}
        owed = {o for o in self.log.unsettled for g in [self.log.recs[o].group] if self.route[g] not in (dead, None) and g not in stuck}
        rounds = 30 + 4 * len(self.log.unsettled)
        for i in range(rounds):
            if i % 2 and i < rounds // 2:
                self.append(d)
            if i < rounds // 2 or owed & self.log.unsettled:
                self.round(d, dead, hang, True)
        check(not owed & self.log.unsettled, "starved beside a dead customer", sorted(owed & self.log.unsettled))
        self.tell(lambda: "--- all customers answer")
        self.log.publish()
        for g in self.groups:
            if not self.route[g]:
                self.redefined, self.route[g] = True, self.home[g]
                if g in t.lanes:
                    t.lanes[g].unknown_since = None
                t.redefine()
        for i in range(40 + 6 * len(self.log.unsettled)):
            if self.log.unsettled or t.lanes:
                self.round(d, None, False, False)
        check(not self.log.unsettled, "never settled", sorted(self.log.unsettled))
        check(not t.lanes, "lanes left", list(t.lanes.values()))
        check(t.free == self.memory and t.watermark() == t.live_offset == self.log.end, "not clean", t.free, t.watermark(), t.live_offset)

    def naive(self):
        """Checks that all processes together sent the naive cut of the log. (--decide: with the windows that were closed by durable decisions.)"""
        for g in self.groups if not (self.track or self.redefined or self.remade) else []:
            want, body, window, cut_from, size = set(), [], None, False, 0
            length, most, bytes_, always = self.cut_rules[self.route[g]]
            closings = sorted(at for group, at in self.decided + [d[:2] for d in self.task.decisions] if group == g)

            def flush(array=False, close=True):
                nonlocal body, size, window, cut_from
                if body:
                    want.add((g, tuple(body), array or cut_from or len(body) > 1 or always))
                body, size, cut_from = [], 0, cut_from or bool(body)
                if close:
                    window, cut_from = None, False
            for off, r in sorted(self.records.items()):
                if any(c <= off for c in closings):
                    closings = [c for c in closings if c > off]
                    flush()
                if window is not None and abs(r.t - window) >= length or r.group == g and r.replay:
                    flush()
                if r.group != g:
                    continue
                if r.replay:
                    want.add((g, (off,), r.replay[1]))
                    continue
                if body and size + r.size > bytes_:
                    flush(True, False)
                window = r.t if window is None else window
                body, size = body + [off], size + r.size
                if len(body) == most:
                    flush(True, False)
            flush()
            got = {c for c in self.messages if c[0] == g}
            check(got <= want, "not the naive cut", sorted(got - want), "naive", sorted(want))
            check(got == want or self.any_dead_lettered, "not all of the naive cut", sorted(want - got))


def run(seed, steps, x, trace=None, stats=None):
    """None or (kind of failure, details)."""
    w = World(seed, x, trace)
    try:
        for s in steps:
            w.step(s)
        w.drain(seed)
        w.naive()
    except Failure as e:
        return e.args
    except Exception as e:  # a defect of the model
        return f"{type(e).__name__} in {traceback.extract_tb(e.__traceback__)[-1].name}", str(e)
    finally:
        if stats is not None:
            stats.update(w.stats)


def steady(x):
    """Two groups of one webhook under steady traffic; a burst of one is refused. Rounds until that has settled."""
    w = World(1, x)
    w.memory, w.groups, w.route, w.expiry, flying, owed = 400, ["a", "b"], {"a": "P", "b": "P"}, False, [], None
    w.cut_rules["P"] = CUT_RULES[0]
    t = w.task = Task(w, None)
    t.durable, t.lease = EVER, EVER
    for r in range(200):
        w.now += 11
        for m in [m for at, m in flying if at == r]:
            t.outcome(m, "accepted")
        for g in "b" * 24 + "a" * 42 * (r == 10):
            w.put(g, w.now, 1 / 3)
        w.log.publish()
        owed = {o for o in w.log.unsettled if w.log.recs[o].group == "a"} if r == 10 else owed
        while t.live_offset < w.log.end:
            t.read_live()
        t.catch_up("near"), t.catch_up("far"), t.close_due()
        for m in [m for l in t.lanes.values() for m in l.msgs if m.state == WAIT]:  # without concurrency limit
            t.dispatch(m)
            flying.append((r + 4, m))
        if owed is not None and not owed & w.log.unsettled:
            return r - 10


def measure(rate, groups, grace, save=12, seconds=120, x=frozenset({"kafka"})):
    """Poisson traffic on one partition, in milliseconds, with windows of 1 s: how often is a window decided, and how long does its message wait?"""
    r, w = random.Random(1), World(2, x)
    w.memory, w.groups, w.grace = 1 << 40, [f"g{i}" for i in range(groups)], grace
    w.route, w.cut_rules["P"] = {g: "P" for g in w.groups}, (1000, 10, 1 << 40, False)
    t = w.task = Task(w, None)
    w.stats.clear()
    t.lease, waits, visible, due, saves = EVER, [], collections.deque(), None, 0
    until, coming = w.now + 1000 * seconds, w.now + r.expovariate(rate / 1000)
    while w.now < until:
        w.now += 1
        while coming <= w.now:
            w.put(r.choice(w.groups), w.now, 1)
            coming += r.expovariate(rate / 1000)
        while len(visible) < len(w.log.pending):  # replication and fetch
            visible.append(max(w.now + r.randint(3, 8), visible[-1] if visible else 0))
        n = sum(at <= w.now for at in visible)
        for _ in range(n):
            visible.popleft()
        w.log.publish(n), t.read_live(n), t.close_due()
        if due is not None and w.now >= due:
            w.land(t)
            due = None
        if due is None and any(m.gate > t.durable for l in t.lanes.values() for m in l.msgs):
            w.begin(t)
            due, saves = w.now + save, saves + 1
        for m in [m for l in t.lanes.values() for m in l.msgs if t.may_send(m)]:
            if m.count < 10:  # a full message doesn't wait for its window
                waits.append(w.now - m.opened - 1000)
            t.settle(m)
        if w.now % 1000 == 0:
            w.log.trim(t.watermark())
    waits.sort()
    decided = w.stats["decisions"]
    return decided / (decided + w.stats["closed by a record"]), (saves + w.stats["ticks"]) / seconds, waits[len(waits) // 2], waits[len(waits) * 99 // 100]


def schedule(seed):
    d = Dice(seed ^ 0x5DEECE66D)
    return [d.below(1 << 30) for _ in range(20 + d.below(100))]


def shrink(seed, steps, x, kind, budget=1500):
    n = max(1, len(steps) // 2)
    while n and budget > 0:
        i = 0
        while i < len(steps) and budget > 0:
            shorter, budget = steps[:i] + steps[i + n:], budget - 1
            if (run(seed, shorter, x) or [""])[0] == kind:
                steps = shorter
            else:
                i += n
        n //= 2
    return steps


def worker(args):
    lo, hi, x = args
    stats = collections.Counter()
    found = [(run(seed, schedule(seed), x, stats=stats), seed) for seed in range(lo, hi)]
    return [(f[0], len(schedule(seed)), seed) for f, seed in found if f], stats


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("--mode", choices=["embedded", "kafka"], default="embedded")
    a.add_argument("--schedules", type=int, default=20000)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--procs", type=int, default=1)
    every = [n for m in ONLY for n in ONLY[m]], [n for m in ALSO for n in ALSO[m]["old"]], [n for m in ALSO for n in ALSO[m]["try"]]
    a.add_argument("--mutant", action="append", default=[], choices=MUTANTS + every[0])
    a.add_argument("--old", action="append", default=[], choices=OLD + every[1])
    a.add_argument("--try", action="append", default=[], choices=TRY + every[2], dest="tried")
    a.add_argument("--story", action="store_true", help="print the smallest failing schedule of each kind of failure")
    a.add_argument("--each", choices=["mutants", "old", "try"], help="run each of them and print what caught it")
    a.add_argument("--decide", action="store_true", help="kafka: decisions, gates and leases instead of ticks (not built)")
    a.add_argument("--define", action="store_true", help="store changed cut rules with the offset from which they count (not built)")
    a.add_argument("--measure", action="store_true", help="print how often Kafka needs a tick (or a decision) under traffic")
    o = a.parse_args()
    if o.measure:
        print("records/s  groups  grace ms | windows decided  saves/s  wait beyond the window, ms: p50  p99 | with ticks: ticks/s  p50  p99")
        for rate, groups in [(1, 5), (5, 5), (20, 20), (50, 20), (100, 50), (200, 50), (500, 50)]:
            for grace in [0, 5, 10, 20, 50, 100]:
                share, saves, half, most = measure(rate, groups, grace)
                _, ticks, half_, most_ = measure(rate, groups, grace, x=frozenset({"kafka", "tick"}))
                print(f"{rate:9}  {groups:6}  {grace:8} | {share:15.3f}  {saves:7.2f}  {half:32}  {most:3} | {ticks:19.2f}  {half_:3}  {most_:3}", flush=True)
        return
    failed, also = False, ALSO[o.mode]
    lists = {"mutants": MUTANTS + ONLY[o.mode], "old": OLD + also["old"], "try": TRY + also["try"]}
    with multiprocessing.Pool(o.procs) as pool:
        for names in [[n] for n in lists[o.each]] if o.each else [o.mutant + o.old + o.tried]:
            began, end, chosen = time.time(), o.seed + o.schedules, []
            chosen += ["tick"] * (o.mode == "kafka" and not (o.decide or DECIDE & set(names)))
            chosen += ["cut_rules_excused"] * (not (o.define or DEFINE & set(names)))
            x = frozenset(names + chosen + [o.mode])
            jobs = [(s, min(s + 250, end), x) for s in range(o.seed, end, 250)]
            kinds, stats, done = collections.defaultdict(list), collections.Counter(), 0
            while jobs and not (kinds and done >= 1000 and o.each in ("mutants", "old")):  # else it is caught already
                now, jobs = jobs[:o.procs], jobs[o.procs:]
                for part, counted in pool.imap_unordered(worker, now):
                    stats.update(counted)
                    for kind, size, seed in part:
                        kinds[kind].append((size, seed))
                done += sum(hi - lo for lo, hi, _ in now)
            if not x & set(MUTANTS) and steady(x) is None:
                kinds["starved beside steady traffic"].append((0, 0))
            how = " with decisions" * (o.mode == "kafka" and "tick" not in x) + " with definitions" * ("cut_rules_excused" not in x)
            print(f"{o.mode}{how}, {' '.join(names) or 'as written'}: {done} schedules, {sum(map(len, kinds.values()))} failures, {time.time() - began:.0f} s", flush=True)
            failed = failed or bool(kinds)
            if not o.each:
                print("   " + ", ".join(f"{n} {k}" for k, n in sorted(stats.items())), flush=True)
            for kind, seeds in sorted(kinds.items(), key=lambda kv: -len(kv[1])):
                seed, lines = min(seeds)[1], []
                print(f"   {len(seeds):7} {kind} (seed {seed})", flush=True)
                if o.story and seed:
                    steps = shrink(seed, schedule(seed), x, kind)
                    f = run(seed, steps, x, lines)
                    rounds = [l for l in lines if " round: " in l]
                    print(f"      {len(steps)} steps: {f}", *[l for l in lines if l not in rounds], *rounds[-2:], sep="\n        ")
    sys.exit(failed)


if __name__ == "__main__":
    main()
