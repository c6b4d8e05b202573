/**
 * Rows of the inbox that someone adds, changes, drops or doubles before they are leaves, as the
 * database's owner, as the service's role, or by a trigger: each is an alert and an entry of its
 * own, and becomes nothing else.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type AuditEntryContent, type KeywardClient, readAuditEntry } from 'keyward-client';
import pg from 'pg';
import { eventually, reasonOf, sharedService } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';

const KEY = 'tenants/acme/keys/mail';
const NOTICES = 'method = "keyward.v1.Maintenance/VerifyAuditRows"';
/** The entry of the call of that id waits. */
const OF_CALL = (id: string) => `position('${id}' IN leaves) > 0`;

describe('a row of the inbox', () => {
  const shared = sharedService(async (client) => {
    await client.createTenant({ tenantId: 'acme' });
    await client.createKey({ parent: 'tenants/acme', keyId: 'mail' });
    await client.createTenant({ tenantId: 'other' });
  });

  const encrypt = (client: KeywardClient, name: string) =>
    client.encrypt({
      name: KEY,
      plaintext: Buffer.from('x'),
      encryptionContext: { [name]: '' },
    });

  /** Does that while no entry becomes a leaf. */
  async function whileWaiting(work: () => Promise<unknown>): Promise<void> {
    const blocker = new pg.Client({ connectionString: shared.environment.urls.superuser });
    await blocker.connect();
    try {
      await blocker.query('BEGIN; SELECT FROM audit_state FOR UPDATE');
      await work();
    } finally {
      await blocker.end();
    }
  }

  /** What the log itself says of rows, from the oldest on. */
  async function notices(): Promise<Record<string, unknown>[]> {
    const { entries } = await shared.keyward.listAuditEntries({
      parent: 'tenants/system',
      filter: NOTICES,
      pageSize: 1_000,
    });
    return entries
      .map((entry) => readAuditEntry(entry) as AuditEntryContent & { detail: object })
      .map(({ detail }) => detail as Record<string, unknown>)
      .reverse();
  }

  /** Does it, and waits for one alert and one signed entry of each kind. */
  async function assertNoticed(kinds: readonly string[], work: () => Promise<unknown>) {
    const before = await notices();
    const { log } = shared.service;
    const logged = log.length;
    await whileWaiting(work);
    await eventually(async () => {
      const found = (await notices()).slice(before.length);
      assert.deepEqual(found.map(({ problem }) => problem).sort(), [...kinds].sort());
      const alerts = log
        .slice(logged)
        .filter(({ alert, foundBy }) => alert === 'audit-inbox' && foundBy === undefined);
      assert.deepEqual(alerts.map(({ problem }) => problem).sort(), [...kinds].sort());
    });
    const found = (await notices()).slice(before.length);
    const { treeSize } = await shared.keyward.getAuditCheckpoint();
    await eventually(async () => {
      const [row] = await sql<{ size: number }>(
        shared.environment,
        'SELECT max(tree_size)::int AS size FROM audit_checkpoints',
      );
      assert.ok((row?.size ?? 0) >= treeSize);
    });
    return found;
  }

  /** How many leaves have it in their line. */
  async function leavesWith(text: string): Promise<number> {
    const [row] = await sql<{ n: number }>(
      shared.environment,
      'SELECT count(*)::int AS n FROM audit_log WHERE position($1 IN leaf) > 0',
      [text],
    );
    return row?.n ?? 0;
  }

  const forge = (leaf: string) =>
    sql(
      shared.environment,
      `INSERT INTO audit_inbox (tenant_id, leaves) SELECT tenant_id, $1 FROM tenants WHERE name = 'acme'`,
      [leaf],
    );
  const change = (id: string, set: string) =>
    sql(shared.environment, `UPDATE audit_inbox SET ${set} WHERE ${OF_CALL(id)}`);

  test('is a leaf when nobody has touched it, and nothing is said of it', async () => {
    await assertNoticed([], () => encrypt(shared.keyward, 'untouched'));
    await eventually(async () => assert.equal(await leavesWith('untouched'), 1));
  });

  test('that someone has added is none', async () => {
    const [{ problem, rows } = {}] = await assertNoticed(['forged'], () =>
      forge('{"v":1,"tenant":"acme","caller":"added"}'),
    );
    assert.deepEqual([problem, rows], ['forged', 1]);
    assert.equal(await leavesWith('"caller":"added"'), 0);
  });

  test('that the service’s role has added and is no JSON keeps nobody from reading the log', async () => {
    await assertNoticed(['forged'], async () => {
      const service = new pg.Client({ connectionString: shared.environment.urls.service });
      await service.connect();
      await service.query(
        `INSERT INTO audit_inbox (tenant_id, leaves) SELECT tenant_id, 'no JSON' FROM tenants`,
      );
      await service.end();
      const [row] = await sql<{ n: number }>(
        shared.environment,
        'SELECT count(*)::int AS n FROM audit_entries WHERE outcome IS NULL',
      );
      assert.ok((row?.n ?? 0) >= 3);
    });
    const filter = 'outcome = OK';
    const { entries } = await shared.keyward.listAuditEntries({ parent: 'tenants/-', filter });
    assert.ok(entries.length > 0);
  });

  for (const [what, set] of [
    ['changed', `leaves = replace(leaves, '"outcome":"OK"', '"outcome":"NO"')`],
    ['dated otherwise', `leaves = replace(leaves, '"time":"2', '"time":"1')`],
    ['moved to another tenant', `tenant_id = (SELECT tenant_id FROM tenants WHERE name = 'other')`],
    ['given another number', 'row_number = row_number + 7'],
    ['cut from its proof', 'mac = NULL, replica_id = NULL'],
  ] as const)
    test(`that was ${what} is none, and is missed`, async () => {
      const name = `row ${what}`;
      await assertNoticed(['forged', 'missing'], async () => {
        await encrypt(shared.keyward, name);
        await change(name, set);
      });
      assert.equal(await leavesWith(name), 0);
    });

  test('that was dropped is missed though none comes after it', async () => {
    const [missing] = await assertNoticed(['missing'], async () => {
      await encrypt(shared.keyward, 'dropped');
      await sql(shared.environment, `DELETE FROM audit_inbox WHERE ${OF_CALL('dropped')}`);
    });
    assert.equal(missing?.['from'], missing?.['to']);
    assert.equal(missing?.['rows'], 1);
  });

  test('of a change that was dropped is missed as well', async () => {
    await assertNoticed(['missing'], async () => {
      await shared.keyward.createKey({ parent: 'tenants/acme', keyId: 'dropped' });
      await sql(shared.environment, `DELETE FROM audit_inbox WHERE ${OF_CALL('keys/dropped')}`);
    });
  });

  test('that was doubled is one leaf', async () => {
    const columns = 'tenant_id, entry_id, leaves, entry_count, replica_id, stream, row_number';
    await assertNoticed(['repeated'], async () => {
      await encrypt(shared.keyward, 'doubled');
      await sql(
        shared.environment,
        `INSERT INTO audit_inbox (${columns}, mask_key_id, mac)
         SELECT ${columns}, mask_key_id, mac FROM audit_inbox WHERE ${OF_CALL('doubled')}`,
      );
    });
    assert.equal(await leavesWith('"doubled"'), 1);
  });

  /** A trigger on each row that is added, while that is done. */
  async function withTrigger(when: string, body: string, work: () => Promise<void>) {
    await sql(
      shared.environment,
      `CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
         $$ BEGIN ${body} RETURN NULL; END $$;
       CREATE TRIGGER meddle ${when} INSERT ON audit_inbox FOR EACH ROW EXECUTE FUNCTION meddle()`,
    );
    try {
      await work();
    } finally {
      await sql(shared.environment, 'DROP FUNCTION meddle CASCADE');
    }
  }

  test('that a trigger drops as it is added has its call fail', async () => {
    await assertNoticed([], () =>
      withTrigger('BEFORE', '', async () => {
        assert.equal(await reasonOf(encrypt(shared.keyward, 'trigger')), 'AUDIT_UNAVAILABLE');
        const creating = shared.keyward.createKey({ parent: 'tenants/acme', keyId: 'unheard' });
        assert.equal(await reasonOf(creating), 'AUDIT_UNAVAILABLE');
      }),
    );
    await encrypt(shared.keyward, 'again');
    assert.equal(
      await reasonOf(shared.keyward.getKey({ name: 'tenants/acme/keys/unheard' })),
      'RESOURCE_NOT_FOUND',
    );
  });

  test('that a trigger drops once it was added is missed', async () => {
    const drop = 'DELETE FROM public.audit_inbox WHERE group_number = NEW.group_number;';
    await assertNoticed(['missing'], () =>
      withTrigger('AFTER', drop, async () => {
        await encrypt(shared.keyward, 'after');
      }),
    );
  });

  for (const [what, change] of [
    ['dropped', 'DELETE FROM audit_writers'],
    ['changed', `UPDATE audit_writers SET content = replace(content, '1', '2')`],
  ] as const)
    test(`is not taken without a proof once what is remembered of writers was ${what}`, async () => {
      const before = await notices();
      await whileWaiting(async () => {
        await sql(shared.environment, change);
        await forge(`{"v":1,"tenant":"acme","caller":"while ${what}"}`);
        await encrypt(shared.keyward, `proven while ${what}`);
      });
      await eventually(async () => {
        const found = new Set((await notices()).slice(before.length).map(({ problem }) => problem));
        // What it was is not known any more, and so it is missed besides.
        assert.ok(found.has('writers-changed') && found.has('forged'), `${[...found]}`);
      });
      assert.equal(await leavesWith(`"while ${what}"`), 0);
      assert.equal(await leavesWith(`proven while ${what}`), 1);
    });

  test('is missed while a trigger drops every one of them once it was added', async () => {
    const before = shared.service.log.length;
    const drop = 'DELETE FROM public.audit_inbox WHERE group_number = NEW.group_number;';
    await withTrigger('AFTER', drop, async () => {
      await encrypt(shared.keyward, 'all');
      await shared.service.logged(({ foundBy }) => foundBy === 'writer', before);
    });
    // And then the log says so itself.
    const known = (await notices()).length;
    await encrypt(shared.keyward, 'let through');
    await eventually(async () => {
      const found = (await notices()).slice(known);
      assert.ok(found.length > 0 && found.every(({ problem }) => problem === 'missing'));
    });
  });
});
