"""What PostgreSQL holds and does: tables, and functions that are one step each.

A function runs in one statement, and so in one transaction that ends without its caller: whoever is
cut off, stopped or killed leaves no lock behind.

Whoever appends locks the log's row until the commit. So positions are given in the order of the
commits: while one that is lower is open, none that is higher can be seen. They are the server's
time to the microsecond, moved on where two would be equal or the clock has gone back, as
nanoseconds since 1970.

Names are bytes, since a database's own encoding may not have their letters. The schema's name has a
number: a version of Sidearm that wants other tables takes another schema, and disturbs nobody.
"""

from __future__ import annotations

#: Whether everything is there.
IS_THERE = "SELECT to_regclass('sidearm_1.log') IS NOT NULL"

#: Sent as one: all of it is there, or nothing. The lock is for others who do the same just now.
CREATE = """
SELECT pg_advisory_xact_lock(hashtext('sidearm_1'));

CREATE SCHEMA IF NOT EXISTS sidearm_1;

CREATE TABLE IF NOT EXISTS sidearm_1.log (
  key text PRIMARY KEY,
  epoch text NOT NULL,
  last bigint NOT NULL,
  total bigint NOT NULL  -- bytes ever appended
);

CREATE TABLE IF NOT EXISTS sidearm_1.entry (
  log text NOT NULL,
  position bigint NOT NULL,
  before bigint NOT NULL,
  total bigint NOT NULL,  -- bytes up to here
  kind text NOT NULL,
  name bytea NOT NULL,
  body bytea NOT NULL,
  PRIMARY KEY (log, position)
);

CREATE TABLE IF NOT EXISTS sidearm_1.sender (
  log text NOT NULL,
  sender text NOT NULL,
  number bigint NOT NULL,
  seen timestamptz NOT NULL,
  PRIMARY KEY (log, sender)
);

CREATE OR REPLACE FUNCTION sidearm_1.now() RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000
$$;

CREATE OR REPLACE FUNCTION sidearm_1.add(
  a_log sidearm_1.log, kinds text[], names bytea[], bodies bytea[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  base bigint := GREATEST(a_log.last, sidearm_1.now() - 1);
BEGIN
  INSERT INTO sidearm_1.entry (log, position, before, total, kind, name, body)
  SELECT a_log.key, base + n, CASE WHEN n = 1 THEN a_log.last ELSE base + n - 1 END,
         a_log.total + sum(octet_length(i.name) + octet_length(i.body) + 100) OVER (ORDER BY n),
         i.kind, i.name, i.body
  FROM unnest(kinds, names, bodies) WITH ORDINALITY AS i(kind, name, body, n);
  UPDATE sidearm_1.log SET
    last = base + cardinality(kinds),
    total = (SELECT e.total FROM sidearm_1.entry AS e
             WHERE e.log = a_log.key AND e.position = base + cardinality(kinds))
  WHERE key = a_log.key;
END $$;

CREATE OR REPLACE FUNCTION sidearm_1.open(the_key text, new_epoch text)
RETURNS sidearm_1.log LANGUAGE plpgsql AS $$
DECLARE
  a_log sidearm_1.log;
BEGIN
  SELECT * INTO a_log FROM sidearm_1.log WHERE key = the_key FOR UPDATE;
  IF NOT FOUND THEN
    INSERT INTO sidearm_1.log VALUES (the_key, new_epoch, 0, 0) ON CONFLICT DO NOTHING;
    SELECT * INTO a_log FROM sidearm_1.log WHERE key = the_key FOR UPDATE;
  END IF;
  IF a_log.last = 0 THEN
    DELETE FROM sidearm_1.entry WHERE log = the_key;
    DELETE FROM sidearm_1.sender WHERE log = the_key;
    PERFORM sidearm_1.add(a_log, '{begin}', '{""}', '{""}');
    SELECT * INTO a_log FROM sidearm_1.log WHERE key = the_key;
  END IF;
  RETURN a_log;
END $$;

CREATE OR REPLACE FUNCTION sidearm_1.append(
  the_key text, new_epoch text, the_sender text, the_number bigint,
  kinds text[], names bytea[], bodies bytea[]
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  a_log sidearm_1.log := sidearm_1.open(the_key, new_epoch);
BEGIN
  INSERT INTO sidearm_1.sender AS known VALUES (the_key, the_sender, the_number, now())
  ON CONFLICT (log, sender) DO UPDATE SET number = excluded.number, seen = excluded.seen
  WHERE known.number < excluded.number;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM sidearm_1.add(a_log, kinds, names, bodies);
  RETURN true;
END $$;

CREATE OR REPLACE FUNCTION sidearm_1.head(the_key text, new_epoch text, quiet bigint)
RETURNS TABLE (epoch text, last bigint) LANGUAGE plpgsql AS $$
DECLARE
  a_log sidearm_1.log := sidearm_1.open(the_key, new_epoch);
BEGIN
  IF sidearm_1.now() - a_log.last >= quiet THEN
    PERFORM sidearm_1.add(a_log, '{mark}', '{""}', '{""}');
  END IF;
  RETURN QUERY SELECT l.epoch, l.last FROM sidearm_1.log AS l WHERE l.key = the_key;
END $$;

CREATE OR REPLACE FUNCTION sidearm_1.renew(the_key text, former text, new_epoch text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  a_log sidearm_1.log := sidearm_1.open(the_key, new_epoch);
BEGIN
  IF a_log.epoch = former THEN
    UPDATE sidearm_1.log SET epoch = new_epoch WHERE key = the_key;
    PERFORM sidearm_1.add(a_log, '{begin}', '{""}', '{""}');
  END IF;
END $$;

-- Entries that are older, or too many, and senders who are forgotten; never the newest entry. Not
-- all at once, if there are very many: nobody is to wait for it for long.
CREATE OR REPLACE FUNCTION sidearm_1.trim(
  the_key text, age bigint, size bigint, sender_age interval
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  a_log sidearm_1.log;
  oldest bigint;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtext('sidearm_1'), hashtext(the_key)) THEN
    RETURN;  -- somebody is about it
  END IF;
  SELECT * INTO a_log FROM sidearm_1.log WHERE key = the_key;
  SELECT GREATEST(sidearm_1.now() - age, position) INTO oldest FROM sidearm_1.entry
  WHERE log = the_key AND total > a_log.total - size ORDER BY position LIMIT 1;
  DELETE FROM sidearm_1.entry WHERE log = the_key AND position IN (
    SELECT position FROM sidearm_1.entry
    WHERE log = the_key AND position < LEAST(oldest, a_log.last)
    ORDER BY position LIMIT 20000
  );
  DELETE FROM sidearm_1.sender WHERE log = the_key AND seen < now() - sender_age;
END $$;
"""

LISTEN = "LISTEN {}"
NOTIFY = "SELECT pg_notify(%s, '')"
APPEND = "SELECT sidearm_1.append(%s, %s, %s, %s, %s::text[], %b::bytea[], %b::bytea[])"
TRIM = "SELECT sidearm_1.trim(%s, %s::bigint, %s::bigint, make_interval(secs => %s))"
RENEW = "SELECT sidearm_1.renew(%s, %s, %s)"

#: The log as it is, and for how long it has been quiet; without a lock.
LOOK = "SELECT epoch, last, sidearm_1.now() - last FROM sidearm_1.log WHERE key = %s"
HEAD = "SELECT epoch, last FROM sidearm_1.head(%s, %s, %s::bigint)"
READ = (
    "SELECT position, before, kind, name, body FROM sidearm_1.entry"
    " WHERE log = %s AND position > %s ORDER BY position LIMIT %s"
)
