/**
 * A fail-over to a streaming standby, after which the former primary runs on and only reads.
 */
import assert from 'node:assert/strict';
import {
  appendFileSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { type Postgres, startPostgres } from '../../dev/postgres.ts';
import { runSql } from '../store/database.ts';
import { DEFAULT_WAITS, eventually, failureOf, reasonOf, startService } from '../support/kit.ts';
import { environmentWithServer } from './own-server.ts';

const PARENT = 'tenants/acme';
const KEY = `${PARENT}/keys/k`;

/** Starts a standby of a server, which has to be restarted for that. */
async function startStandby(primary: Postgres, near: string): Promise<Postgres> {
  await primary.stop();
  const directory = mkdtempSync(join(near, 'standby-'));
  mkdirSync(join(directory, 'data'), { mode: 0o700 });
  cpSync(primary.dataDirectory, join(directory, 'data'), {
    recursive: true,
    preserveTimestamps: true,
  });
  copyFileSync(
    join(dirname(primary.dataDirectory), 'passwords.json'),
    join(directory, 'passwords.json'),
  );
  const { password } = new URL(primary.superuserUrl());
  writeFileSync(join(directory, 'data', 'standby.signal'), '');
  appendFileSync(
    join(directory, 'data', 'postgresql.auto.conf'),
    `primary_conninfo = 'host=127.0.0.1 port=${primary.port} user=postgres password=${password}'\n`,
  );
  await primary.restart();
  return startPostgres({ directory, say: () => {} });
}

/** The URL with several servers' hosts and ports. */
function ofAll(url: string, servers: readonly Postgres[]): string {
  const hosts = servers.map(({ port }) => `127.0.0.1:${port}`).join(',');
  return `${url.replace(new URL(url).host, hosts)}?target_session_attrs=read-write`;
}

test('after a fail-over a replica goes on with the new primary, though the former one still reads', async () => {
  const { environment, postgres: former } = await environmentWithServer();
  await using _environment = environment;
  await using stack = new AsyncDisposableStack();
  const next = await startStandby(former, environment.directory);
  stack.defer(() => next.remove());
  const url = ofAll(former.serviceUrl('keyward'), [former, next]);
  await using both = await startService(environment, { DATABASE_URL: url });
  await using alone = await startService(environment, DEFAULT_WAITS);
  const keyward = both.client({ retries: 3 });
  await keyward.createTenant({ tenantId: 'acme' });
  await keyward.createKey({ parent: PARENT, keyId: 'k' });
  const { ciphertext } = await keyward.encrypt({ name: KEY, plaintext: Buffer.from('p') });
  const ofFormer = alone.client();
  await ofFormer.decrypt({ parent: PARENT, ciphertext });
  const from = alone.log.length;

  await runSql(former.superuserUrl(), 'ALTER SYSTEM SET default_transaction_read_only = on');
  await runSql(former.superuserUrl(), 'SELECT pg_reload_conf()');
  const [at] = await runSql<{ lsn: string }>(
    former.superuserUrl(),
    'SELECT pg_current_wal_lsn()::text AS lsn',
  );
  await eventually(async () => {
    const [row] = await runSql<{ there: boolean }>(
      next.superuserUrl(),
      'SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn AS there',
      [at?.lsn],
    );
    assert.ok(row?.there);
  });
  await runSql(next.superuserUrl(), 'SELECT pg_promote()');
  const promoted = {
    ...environment,
    urls: { ...environment.urls, superuser: next.superuserUrl('keyward') },
    variables: { ...environment.variables, DATABASE_URL: next.serviceUrl('keyward') },
  };
  await using other = await startService(promoted);
  await other.client({ retries: 3 }).disableKey({ name: KEY });

  await eventually(async () =>
    assert.equal(
      await reasonOf(keyward.decrypt({ parent: PARENT, ciphertext })),
      'KEY_NOT_ENABLED',
    ),
  );
  for (let call = 0; call < 20; call++)
    assert.equal(
      await reasonOf(keyward.decrypt({ parent: PARENT, ciphertext })),
      'KEY_NOT_ENABLED',
    );
  await keyward.createKey({ parent: PARENT, keyId: 'after' });

  // The replica that knows of no other server stops answering rather than answer from that one.
  await alone.logged(({ msg }) => msg === 'not serving', from);
  const error = await failureOf(ofFormer.decrypt({ parent: PARENT, ciphertext }));
  assert.deepEqual([error.code, error.reason], ['UNAVAILABLE', 'REPLICA_STALE']);
});
