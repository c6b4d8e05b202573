/**
 * Which databases the store opens, which it refuses and in what words; and migrating them.
 */
import assert from 'node:assert/strict';
import { chown, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type Credentials, createCertificateAuthority } from '../../dev/certificates.ts';
import { type Postgres, startPostgres } from '../../dev/postgres.ts';
import { parseAddress } from '../../src/store/core/address.ts';
import { migrate } from '../../src/store/core/migrate.ts';
import {
  compareReleases,
  MIGRATIONS_DIRECTORY,
  migrationNames,
} from '../../src/store/core/schema.ts';
import { Store } from '../../src/store/store.ts';
import { eventually } from '../support/kit.ts';
import {
  emptyDatabase,
  migratedDatabase,
  newRole,
  OWNER,
  RELEASE,
  runSql,
  SERVICE,
  type TestDatabase,
} from './database.ts';

const log = () => {};

/** Opens and closes; what refuses, throws. */
async function tryToOpen(
  database: TestDatabase,
  options?: Parameters<TestDatabase['open']>[0],
): Promise<void> {
  await (await database.open(options)).close();
}

describe('roles', () => {
  it('case 35: a superuser, the owner, and whoever may become one of them or has BYPASSRLS is refused', async () => {
    await using database = await migratedDatabase();
    await using bypass = await newRole('BYPASSRLS IN ROLE keyward_service');
    await using nearBypass = await newRole(`IN ROLE keyward_service, ${bypass.name}`);
    await using nearOwner = await newRole(`NOINHERIT IN ROLE keyward_service, ${OWNER}`);
    const refusals = [
      [undefined, /is a superuser/],
      [OWNER, /the owner of the tables/],
      [bypass.name, /BYPASSRLS/],
      [nearBypass.name, /BYPASSRLS/],
      [nearOwner.name, /the owner of the tables/],
    ] as const;
    for (const [role, words] of refusals)
      await assert.rejects(tryToOpen(database, { url: database.url(role) }), words);
  });

  it('a member of keyward_service is welcome, a stranger is refused', async () => {
    await using database = await migratedDatabase();
    await using member = await newRole('IN ROLE keyward_service');
    await using stranger = await newRole('');
    await tryToOpen(database, { url: database.url(member.name) });
    await assert.rejects(
      tryToOpen(database, { url: database.url(stranger.name) }),
      /not a member of keyward_service/,
    );
  });

  it('case 35: row-level security that was turned off is noticed', async () => {
    await using database = await migratedDatabase();
    await database.sql('ALTER TABLE key_versions DISABLE ROW LEVEL SECURITY');
    await assert.rejects(tryToOpen(database), /row-level security is off for key_versions/);
  });
});

describe('durability', () => {
  it('case 81: synchronous_commit off is refused', async () => {
    await using database = await migratedDatabase();
    await database.sql(`ALTER DATABASE ${database.name} SET synchronous_commit = off`);
    await assert.rejects(tryToOpen(database), /synchronous_commit off/);
  });
});

describe('a cluster of its own', () => {
  let directory: string;
  let postgres: Postgres;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'keyward-store-'));
    postgres = await startPostgres({ directory, settings: { fsync: 'off' }, say: log });
  });

  after(async () => {
    await postgres.remove();
    await rm(directory, { recursive: true, force: true });
  });

  const open = (url: string, caFile?: string) =>
    Store.open({
      url,
      poolSize: 1,
      waitMs: 300,
      release: RELEASE,
      onError: log,
      ...(caFile === undefined ? {} : { caFile }),
    });

  it('case 81: fsync off is refused', async () => {
    await assert.rejects(open(postgres.superuserUrl()), /fsync off/);
  });

  it('without the service role migrating says how to make it', async () => {
    const migrating = migrate({ url: postgres.superuserUrl(), log });
    await assert.rejects(migrating, /run: CREATE ROLE keyward_service LOGIN/);
  });

  it('a server that speaks no TLS is refused where TLS is wanted', async () => {
    await assert.rejects(
      open(`${postgres.superuserUrl()}?sslmode=require`),
      /does not support SSL/,
    );
  });

  it('a certificate of another authority, or for another name, is refused', async () => {
    const [ours, another] = ['ours', 'another'].map((name) => createCertificateAuthority(name));
    assert.ok(ours !== undefined && another !== undefined);
    const caFile = join(directory, 'ca.pem');
    const url = `${postgres.superuserUrl()}?sslmode=verify-full`;
    await serveTls(postgres, ours.issue({ subject: 'db', usage: 'server', ips: ['127.0.0.1'] }));
    await eventually(() => assert.rejects(open(url), /self-signed certificate|unable to/));
    await writeFile(caFile, another.certPem);
    await assert.rejects(open(url, caFile), /self-signed certificate|unable to/);
    await writeFile(caFile, ours.certPem);
    await assert.rejects(open(url, caFile), /fsync off/);
    await assert.rejects(open(`${url}&sslrootcert=${caFile}`), /fsync off/);
    await serveTls(postgres, ours.issue({ subject: 'db', usage: 'server', dns: ['db.example'] }));
    await eventually(() => assert.rejects(open(url, caFile), /does not match|altnames/));
  });
});

/** Has Postgres speak TLS with those credentials: soon, once it has read that. */
async function serveTls(postgres: Postgres, credentials: Credentials): Promise<void> {
  const { uid, gid } = await stat(postgres.dataDirectory);
  const files = { 'server.crt': credentials.certPem, 'server.key': credentials.keyPem };
  for (const [name, pem] of Object.entries(files)) {
    const path = join(postgres.dataDirectory, name);
    await writeFile(path, pem, { mode: 0o600 });
    await chown(path, uid, gid);
  }
  await runSql(postgres.superuserUrl(), 'ALTER SYSTEM SET ssl = on');
  await runSql(postgres.superuserUrl(), 'SELECT pg_reload_conf()');
}

/** Of the migrations up to this one, none was released; it refuses the code of before them all. */
const FREE_BEFORE = '0016_releases';
/** What code that was written before would miss, or be refused. */
const NARROWING =
  /\bDROP (TABLE|COLUMN|FUNCTION|VIEW)\b|\bRENAME\b|\bSET NOT NULL\b|\bTYPE\b|\bADD COLUMN [^,;]*\bNOT NULL(?![^,;]*\bDEFAULT\b)|\bREVOKE [^;]*\bFROM keyward_/i;

describe('schema', () => {
  it('case 82: a schema that needs a newer release is refused, a newer one that does not runs', async () => {
    await using database = await migratedDatabase();
    const future = (release: string) =>
      database.sql(
        "INSERT INTO schema_releases (migration, oldest_release) VALUES ('9999_future', $1)",
        [release],
      );
    await future('0.2.0');
    await tryToOpen(database);
    await database.sql("DELETE FROM schema_releases WHERE migration = '9999_future'");
    await future('0.3.0');
    await assert.rejects(
      tryToOpen(database),
      /9999_future, which needs release 0\.3\.0 or later; this is 0\.2\.0/,
    );
    await tryToOpen(database, { release: '0.10.0' });
    await tryToOpen(database, { release: '0.3.0-rc.1' });
  });

  it('case 82: an older schema is refused, with the command that helps', async () => {
    await using empty = await emptyDatabase();
    await assert.rejects(
      tryToOpen(empty),
      /not applied: 0001_first, .*; run `keyward-server migrate`/,
    );
    await using older = await migratedDatabase();
    await older.sql("DELETE FROM schema_releases WHERE migration = '0001_first'");
    await assert.rejects(tryToOpen(older), /older than this release/);
  });

  it('case 82: of twenty migrations at once one migrates, and all succeed', async () => {
    await using database = await emptyDatabase();
    const url = database.url(OWNER);
    const applied = await Promise.all(Array.from({ length: 20 }, () => migrate({ url, log })));
    assert.deepEqual(applied.flat(), await migrationNames());
    await tryToOpen(database);
  });

  it('migrating what is migrated does nothing', async () => {
    await using database = await migratedDatabase();
    assert.deepEqual(await migrate({ url: database.url(OWNER), log }), []);
  });

  it('a migration that a merge brings before one that has run is applied', async () => {
    await using database = await migratedDatabase();
    const name = '0016_releases';
    for (const [table, column] of [
      ['schema_releases', 'migration'],
      ['schema_migrations', 'name'],
    ])
      await database.sql(`DELETE FROM ${table} WHERE ${column} = $1`, [name]);
    await database.sql("INSERT INTO schema_migrations (name, run_on) VALUES ('9999_b', now())");
    await assert.rejects(tryToOpen(database), /not applied: 0016_releases\)/);
    assert.deepEqual(await migrate({ url: database.url(OWNER), log }), [name]);
    await tryToOpen(database);
  });

  it('the service role itself is not let migrate', async () => {
    await using database = await emptyDatabase();
    await database.sql(`GRANT CREATE ON SCHEMA public TO keyward_service`);
    await database.sql(
      `ALTER ROLE ${SERVICE} IN DATABASE ${database.name} SET role = keyward_service`,
    );
    await assert.rejects(migrate({ url: database.url(SERVICE), log }), /must not own the schema/);
  });

  it('every migration states, under its own name, the oldest release that may run on it', async () => {
    for (const name of await migrationNames()) {
      const sql = await readFile(join(MIGRATIONS_DIRECTORY, `${name}.sql`), 'utf8');
      const statements = sql.match(
        /INSERT INTO schema_releases \(migration, oldest_release\) VALUES \('(.*?)', '.*?'\);/g,
      );
      assert.equal(statements?.length, 1, name);
      assert.ok(statements[0].includes(`('${name}',`), name);
    }
  });

  it('a migration that takes something from the code of before states a release that refuses that code', async () => {
    let oldest = '0.0.0';
    for (const name of await migrationNames()) {
      const sql = await readFile(join(MIGRATIONS_DIRECTORY, `${name}.sql`), 'utf8');
      const [, stated = ''] = /VALUES \('\d+_\w+', '(.*?)'\);/.exec(sql) ?? [];
      if (name > FREE_BEFORE && NARROWING.test(sql.replace(/--.*$/gm, '')))
        assert.ok(
          compareReleases(stated, oldest) > 0,
          `${name} narrows, and the code of before may run on it: ${oldest}`,
        );
      if (compareReleases(stated, oldest) > 0) oldest = stated;
    }
  });

  it('releases are compared by their numbers', () => {
    assert.ok(compareReleases('0.10.0', '0.9.9') > 0);
    assert.ok(compareReleases('1.0.0', '0.99.99') > 0);
    assert.ok(compareReleases('0.1.0', '0.1.1') < 0);
    assert.equal(compareReleases('1.2.3-rc.1+build', '1.2.3'), 0);
  });
});

describe('addresses', () => {
  const ssl = (url: string) => parseAddress(url).servers[0].ssl;

  it('over a network only verified TLS is spoken, whatever stronger mode is named', () => {
    for (const mode of ['', '?sslmode=require', '?sslmode=verify-ca', '?sslmode=verify-full']) {
      assert.deepEqual(ssl(`postgresql://u:p@db.example/k${mode}`), { rejectUnauthorized: true });
    }
  });

  it('over a network modes that do not verify are refused', () => {
    for (const mode of ['disable', 'allow', 'prefer', 'no-verify']) {
      assert.throws(
        () => ssl(`postgresql://u:p@db.example/k?sslmode=${mode}`),
        /does not protect the connection .*; use verify-full/,
      );
    }
    assert.throws(() => ssl('postgresql://u@db.example/k?sslmode=sometimes'), /not known/);
  });

  it('loopback and sockets go without TLS, unless it is asked for', () => {
    for (const url of [
      'postgresql://u@127.0.0.1/k',
      'postgresql://u@localhost/k?sslmode=disable',
      'postgresql://u@[::1]:5433/k',
      'postgresql://u@/k?host=/run/postgresql',
      'postgresql://u@%2Frun%2Fpostgresql/k',
    ]) {
      assert.equal(ssl(url), false, url);
    }
    assert.deepEqual(ssl('postgresql://u@localhost/k?sslmode=verify-full'), {
      rejectUnauthorized: true,
    });
  });

  it('names that only look like loopback are not', () => {
    for (const host of ['127.0.0.1.example', 'localhost.example', '128.0.0.1']) {
      assert.deepEqual(ssl(`postgresql://u@${host}/k`), { rejectUnauthorized: true });
    }
  });

  it('the parts of a URL are decoded, and shown without the password', () => {
    const {
      servers: [config],
      display,
    } = parseAddress('postgres://some%40one:p%2Fw@db.example:6432/key%20ward');
    assert.equal(config.user, 'some@one');
    assert.equal(config.password, 'p/w');
    assert.equal(display, 'db.example:6432/key ward');
    assert.equal(
      parseAddress('postgresql://u@/k?host=/run/postgresql').servers[0].host,
      '/run/postgresql',
    );
  });

  it('several hosts are the servers of one database, in their order', () => {
    const { servers, display } = parseAddress(
      'postgresql://u:p%2Cw@one:5432,[2001:db8::1]:5433,three/k?target_session_attrs=read-write',
    );
    assert.deepEqual(
      servers.map(({ host, port, password, ssl }) => [host, port, password, ssl]),
      [
        ['one', 5432, 'p,w', { rejectUnauthorized: true }],
        ['2001:db8::1', 5433, 'p,w', { rejectUnauthorized: true }],
        ['three', 5432, 'p,w', { rejectUnauthorized: true }],
      ],
    );
    assert.equal(display, 'one:5432,2001:db8::1:5433,three:5432/k');
  });

  it('what is not understood is refused by name, without the URL', () => {
    const refusals = [
      ['postgresql://u:secret@h/k?options=-c%20fsync', /parameter options is not supported/],
      [
        'postgresql://u:secret@h/k?statement_timeout=1',
        /parameter statement_timeout is not supported/,
      ],
      ['postgresql://u:secret@h/k?host=other', /must be the directory/],
      ['postgresql://u:secret@h/', /names no database/],
      ['postgresql://h/k', /names no user/],
      ['postgresql://u:secret@h,/k', /one of its hosts is empty/],
      ['postgresql://u:secret@h/k?target_session_attrs=any', /only a server that accepts writes/],
      ['mysql://u:secret@h/k', /must begin with postgresql/],
      ['secret', /not a URL/],
    ] as const;
    for (const [url, words] of refusals) {
      assert.throws(
        () => parseAddress(url),
        (error) =>
          error instanceof Error && words.test(error.message) && !error.message.includes('secret'),
        url,
      );
    }
  });

  it('a database that is not there is named, without the password', async () => {
    const url = 'postgresql://u:secret@127.0.0.1:1/k';
    await assert.rejects(
      Store.open({ url, poolSize: 1, waitMs: 300, release: RELEASE, onError: log }),
      (error: unknown) => {
        assert.ok(error instanceof Error);
        assert.match(error.message, /cannot use the database 127\.0\.0\.1:1\/k: .*ECONNREFUSED/);
        assert.ok(!error.message.includes('secret'));
        return true;
      },
    );
    await assert.rejects(migrate({ url, log }), /cannot use the database 127\.0\.0\.1:1\/k/);
  });
});
