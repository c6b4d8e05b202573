/**
 * The commands and snippets of the documents, as they are written there, by an ordinary user in a
 * folder in which the packed client and command are installed, on each release of Node.
 *
 * - The callers are those that `npm start` makes.
 * - A line that ends with `# refused: WORD` must fail and report that word; others must succeed.
 * - The command needs no registry. The client's dependencies do: where npm reaches none, what needs
 *   the client is skipped, and says so.
 * - `npm test` has one release, as the run's seed draws, and of the command what the READMEs show;
 *   `test/long/packages.test.ts` has all releases, and docs/command.md.
 */
import assert from 'node:assert/strict';
import { execFile, execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect } from 'keyward-client';
import { restoreCertificateAuthority } from '../../dev/certificates.ts';
import { environmentPaths, openCertificates } from '../../dev/environment.ts';
import {
  appointAdministrator,
  grantRoles,
  identitiesOf,
  keepTokens,
  PRINCIPALS,
  writeProfiles,
} from '../../dev/identities.ts';
import { openIssuers } from '../../dev/issuers.ts';
import { startProvider } from '../../dev/provider.ts';
import { runSql } from '../store/database.ts';
import { type Environment, newEnvironment, startService } from '../support/kit.ts';
import { draw, randomBy, SEED } from '../support/random.ts';
import { nodeOf } from './nodes.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const isWhole = process.env['KEYWARD_TEST_RELEASES'] === 'all';
const ALL = [20, 22, 24] as const;
/** The first of them is the one that the READMEs' lines run on. */
const RELEASES = isWhole ? ALL : ([draw(ALL, randomBy(SEED))] as const);
const skip = isWhole ? false : 'npm run test:long -- packages has it';
/** Nobody, when we are root; else ourselves. */
const ACCOUNT = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
/** Who calls by a certificate in docs/command.md. */
const BATCH = 'spiffe://example.org/batch';

const running = new AsyncDisposableStack();
let environment: Environment;
/** A folder that the account can reach: the clone's own may be root's alone. */
let work: string;
let port: number;

before(async () => {
  environment = running.use(await newEnvironment());
  work = mkdtempSync(join(tmpdir(), 'keyward-documents-'));
  running.defer(() => rmSync(work, { recursive: true, force: true }));
  chmodSync(work, 0o755);
  const packed = join(work, 'packages');
  const pack = [join(ROOT, 'scripts', 'pack.js'), packed, '--executables', ''];
  execFileSync(process.execPath, pack, { cwd: ROOT });
  await serve();
  await runSql(environment.urls.superuser, 'CREATE SCHEMA readers');
  cpSync(nodeOf(24), newestNode(), { dereference: true });
  for (const release of RELEASES) makeProject(release);
});

after(() => running.disposeAsync());

/** Starts the service for the callers that `npm start` makes, whose files are in `.keyward`. */
async function serve(): Promise<void> {
  const paths = environmentPaths(work);
  mkdirSync(paths.directory, { mode: 0o700 });
  const certificates = openCertificates(paths.certificates);
  const provider = running.use(await startProvider({ folder: paths.provider, port: 0 }));
  const issuers = openIssuers(paths.issuers, provider.issuer);
  const service = await startService(environment, {
    KEYWARD_MODE: 'development',
    KEYWARD_TLS_CERT_FILE: certificates.server.cert,
    KEYWARD_TLS_KEY_FILE: certificates.server.key,
    KEYWARD_TLS_CLIENT_CA_FILE: certificates.ca.cert,
    KEYWARD_ISSUERS_FILE: issuers.file,
    KEYWARD_FIRST_ADMINISTRATOR: PRINCIPALS.firstAdministrator,
  });
  running.use(service);
  port = service.port;
  const identities = identitiesOf(`127.0.0.1:${port}`, { certificates, tokens: paths.tokens });
  writeProfiles(paths.directory, paths.profilesFile, identities, provider.issuer);
  running.use(await keepTokens(issuers, identities, assert.ifError));
  using first = connect(identities.firstAdministrator);
  using admin = connect(identities.admin);
  await appointAdministrator(first);
  await admin.createTenant({ tenantId: 'demo' });
  await grantRoles(admin);
}

/** Where the account can run it. */
const newestNode = () => join(work, 'newest-node');
const projectOf = (release: number) => join(work, `node-${release}`);

/** An empty project of the user's, with the callers' files, the packages' files and a Node. */
function makeProject(release: (typeof ALL)[number]): void {
  const project = projectOf(release);
  mkdirSync(join(project, 'bin'), { recursive: true });
  writeFileSync(join(project, 'package.json'), '{ "type": "module" }\n');
  cpSync(join(work, '.keyward'), join(project, '.keyward'), { recursive: true });
  for (const name of readdirSync(join(work, 'packages')))
    linkSync(join(work, 'packages', name), join(project, name));
  cpSync(nodeOf(release), join(project, 'bin', 'node'), { dereference: true });
  writeProgram(project, 'npm', `exec node '${npmProgram()}' "$@"`);
  // What `npm exec` does for a program that the project has, without the second that it takes.
  writeProgram(project, 'npx', 'exec "./node_modules/.bin/$@"');
  // As where it is installed for all of a user's folders.
  writeProgram(project, 'keyward', 'exec npx keyward "$@"');
  // A browser in which Alice signs in; its sources want the newest Node.
  for (const name of ['browse.ts', 'browser.ts'])
    cpSync(join(ROOT, 'test', 'cli', name), join(project, 'bin', name));
  writeProgram(
    project,
    'xdg-open',
    `exec '${newestNode()}' "$(dirname "$0")/browse.ts" "$1" alice`,
  );
  give(project);
}

function writeProgram(project: string, name: string, script: string): void {
  const file = join(project, 'bin', name);
  writeFileSync(file, `#!/bin/sh\n${script}\n`);
  chmodSync(file, 0o755);
}

/** The npm that runs the tests, or is in PATH. */
function npmProgram(): string {
  const own = process.env['npm_execpath'];
  if (own?.endsWith('.js')) return own;
  const places = (process.env['PATH'] ?? '').split(delimiter);
  const found = places.map((place) => join(place, 'npm')).find(existsSync);
  return realpathSync(found ?? assert.fail('there is no npm in PATH'));
}

/** Makes everything in a folder the account's. */
function give(folder: string): void {
  if (ACCOUNT.uid === undefined) return;
  for (const name of ['', ...readdirSync(folder, { recursive: true, encoding: 'utf8' })])
    chownSync(join(folder, name), ACCOUNT.uid, ACCOUNT.gid);
}

/** Runs a line of a shell in a project as its user, whose home it is. */
function inShell(release: number, line: string) {
  const project = projectOf(release);
  const env = {
    PATH: [join(project, 'bin'), '/usr/bin', '/bin'].join(delimiter),
    HOME: project,
    DISPLAY: ':0',
    ...database(),
    ...NPM,
  };
  const options = { ...ACCOUNT, cwd: project, env };
  return new Promise<{ failed: boolean; output: string }>((resolve) => {
    execFile('bash', ['-c', line], options, (error, stdout, stderr) =>
      resolve({ failed: error !== null, output: `${stdout}${stderr}` }),
    );
  });
}

/** The reader's own database: a schema that the service does not know. */
function database(): Record<string, string> {
  const { hostname, port: at, username, password, pathname } = new URL(environment.urls.superuser);
  return {
    ...{ PGHOST: hostname, PGPORT: at, PGUSER: username, PGPASSWORD: decodeURIComponent(password) },
    ...{ PGDATABASE: pathname.slice(1), PGOPTIONS: '-c search_path=readers' },
  };
}

/** How npm reaches the registry here. */
const NPM = Object.fromEntries(
  Object.entries(process.env).flatMap(([name, value]) =>
    /^(npm_config_(registry|cafile)|https?_proxy|no_proxy|node_extra_ca_certs)$/i.test(name) &&
    value !== undefined
      ? [[name, value] as const]
      : [],
  ),
);

/** Runs lines that a document shows, one after the other. */
async function runLines(release: number, lines: readonly string[]): Promise<void> {
  for (const line of lines) {
    const refusal = /# refused: (\S+)$/.exec(line)?.[1];
    const { failed, output } = await inShell(release, line);
    assert.equal(failed, refusal !== undefined, `${line}\n${output}`);
    if (refusal !== undefined) assert.ok(output.includes(refusal), `${line}\n${output}`);
  }
}

/** A document's blocks in that language, for this service. */
function blocksOf(document: string, language: string): string[] {
  const text = readFileSync(join(ROOT, document), 'utf8');
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map(
    ([, block]) =>
      (block ?? '').replaceAll(/(127\.0\.0\.1|keyward\.example\.com):7443/g, `127.0.0.1:${port}`),
  );
}

function linesOf(document: string): string[] {
  return blocksOf(document, 'sh').flatMap((block) =>
    block
      .replaceAll('\\\n', '')
      .split('\n')
      .filter((line) => line !== ''),
  );
}

/** The part of a document that one of its headings begins. */
function sectionOf(document: string, heading: string): string[] {
  const lines = readFileSync(join(ROOT, document), 'utf8').split(`\n## ${heading}\n`)[1];
  const shown = lines?.split('\n## ')[0] ?? assert.fail(`${document} has no ${heading}`);
  return linesOf(document).filter((line) => shown.replaceAll('\\\n', '').includes(line));
}

describe('the command’s package', () => {
  test('installs without a registry, and shows its release', async () => {
    for (const release of RELEASES) {
      const [install = ''] = linesOf('cli/README.md');
      assert.match(install, /^npm install \.\/keyward-cli-[\d.]+\.tgz$/);
      await runLines(release, [
        `${install} --offline`,
        'npm exec --offline -- keyward profiles allow',
      ]);
      const { output } = await inShell(release, 'node --version && npx keyward --version');
      assert.match(output, new RegExp(`^v${release}\\.[\\d.]+\\n\\d+\\.\\d+\\.\\d+\\n$`));
    }
  });

  test('does what the README’s first calls and its own show', async () => {
    const lines = sectionOf('README.md', 'A first call');
    assert.ok(lines.length > 15);
    await runLines(RELEASES[0], lines);
    await runLines(RELEASES[0], linesOf('cli/README.md').slice(1));
  });

  test('does what docs/command.md shows', { skip }, async () => {
    const profiles = await batchProfile();
    const folder = join(projectOf(22), '.config', 'keyward');
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'profiles.json'), JSON.stringify(profiles), { mode: 0o600 });
    give(join(projectOf(22)));
    await runLines(22, [
      'echo report > report.pdf; mkdir photos backup; echo photo > photos/1.jpg',
      'cp .keyward/certificates/ca.pem ca.pem; cp .keyward/tokens/auditor.jwt token',
    ]);
    // What an encrypted file is decrypted to is not to be there.
    const readies: readonly (readonly [RegExp, string])[] = [
      [/decrypt-file report/, 'rm report.pdf'],
      [/decrypt-file --recursive/, 'rm -r photos'],
    ];
    for (const line of linesOf('docs/command.md')) {
      const ready = readies.find(([expression]) => expression.test(line))?.[1];
      const own = line
        .replaceAll('tenants/acme', 'tenants/demo')
        .replaceAll('--tenant acme', '--tenant demo')
        .replaceAll('/backup/', 'backup/');
      await runLines(22, ready === undefined ? [own] : [ready, own]);
    }
    const { output } = await inShell(22, 'cat report.pdf photos/1.jpg');
    assert.equal(output, 'report\nphoto\n');
    // The other tests use the folder's, which the document ends with denying.
    rmSync(join(folder, 'profiles.json'));
    await runLines(22, ['npx keyward profiles allow']);
  });

  test('finds nothing wrong', async () => {
    for (const release of RELEASES) {
      const line = 'KEYWARD_PROFILES=.keyward/profiles.json npx keyward --profile service doctor';
      const { failed, output } = await inShell(release, line);
      assert.ok(!failed && output.includes('✓ caller'), output);
    }
  });
});

/** The profile `batch` of docs/command.md, whose caller may use the keys of `demo`. */
async function batchProfile(): Promise<object> {
  const shown = blocksOf('docs/command.md', 'json').map((block) => JSON.parse(block));
  const { batch } = shown.find(({ profiles }) => profiles !== undefined).profiles;
  const admin = 'KEYWARD_PROFILES=.keyward/profiles.json npx keyward';
  await runLines(22, [
    ...['encrypter', 'decrypter', 'dataKeyIssuer'].map(
      (role) => `${admin} access bind demo --principal ${BATCH} --role ${role}`,
    ),
    `${admin} keys create tenants/demo/keys/files`,
  ]);
  const folder = join(projectOf(22), '.config', 'keyward');
  mkdirSync(folder, { recursive: true });
  const read = (name: string) => readFileSync(join(work, '.keyward', 'certificates', name), 'utf8');
  const ca = restoreCertificateAuthority('Keyward development CA', {
    certPem: read('ca.pem'),
    keyPem: read('ca-key.pem'),
  });
  const issued = ca.issue({ subject: 'batch', usage: 'client', uris: [BATCH] });
  const contents = {
    [batch.caFile]: ca.certPem,
    [batch.certFile]: issued.certPem,
    [batch.keyFile]: issued.keyPem,
  };
  for (const [name, pem] of Object.entries(contents))
    writeFileSync(join(folder, name), pem, { mode: 0o600 });
  return {
    profiles: { batch: { ...batch, address: `127.0.0.1:${port}`, serverName: 'localhost' } },
  };
}

describe('the client’s package', () => {
  /** Installs it, with what it depends on. Returns why it cannot be, if no registry is reached. */
  async function install(release: number): Promise<string | undefined> {
    const [line = ''] = linesOf('client/README.md');
    assert.match(line, /^npm install \.\/keyward-client-[\d.]+\.tgz$/);
    const { failed, output } = await inShell(release, `${line} --no-audit --no-fund`);
    if (!failed) return undefined;
    const away = /ENOTFOUND|ECONNREFUSED|EAI_AGAIN|ETIMEDOUT|ENETUNREACH/.exec(output);
    return away === null ? assert.fail(output) : `npm reaches no registry: ${away[0]}`;
  }

  /** The documents' programs, by the names of their files. */
  const programs = () =>
    new Map([
      ...['README.md', 'client/README.md', 'docs/client.md'].flatMap((document) =>
        blocksOf(document, 'ts').map(
          (block, i) => [`${document.replaceAll(/\W/g, '-')}-${i}`, block] as const,
        ),
      ),
      ['envelopes', envelopes()] as const,
    ]);

  /** Copies what documents use besides, from what our own lockfile has. */
  function copyInto(project: string, names: readonly string[]): void {
    for (const name of names) {
      const to = join(project, 'node_modules', name);
      rmSync(to, { recursive: true, force: true });
      cpSync(join(ROOT, 'node_modules', name), to, { recursive: true });
    }
  }

  /** Compiles them as a strict project does. */
  function compileIn(project: string): void {
    copyInto(project, ['@types/node', 'undici-types', '@types/pg']);
    for (const [name, program] of programs()) writeFileSync(join(project, `${name}.ts`), program);
    const files = [...programs().keys()].map((name) => `${name}.ts`);
    const options = '--strict --module nodenext --target es2023 --types node';
    const args = [...options.split(' '), '--lib', 'es2023,esnext.disposable', ...files];
    const compiler = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');
    const { status, stdout } = spawnSync(process.execPath, [compiler, ...args], {
      cwd: project,
      encoding: 'utf8',
    });
    assert.deepEqual([status, stdout], [0, '']);
  }

  for (const release of RELEASES)
    test(`does on Node ${release} what the documents show, and its types hold`, async (t) => {
      const why = await install(release);
      if (why !== undefined) return t.skip(why);
      const project = projectOf(release);
      copyInto(project, ['@opentelemetry/api', ...withDependencies('pg')]);
      if (release === RELEASES[0]) compileIn(project);
      else
        for (const name of programs().keys())
          cpSync(join(projectOf(RELEASES[0]), `${name}.js`), join(project, `${name}.js`));
      give(project);
      const written: string[] = [];
      for (const name of programs().keys()) {
        const { failed, output } = await inShell(release, `node ${name}.js`);
        assert.ok(!failed, `${name}: ${output}`);
        written.push(output);
      }
      assert.ok(written.length >= 5);
      const row = "{ id: '17', customer: 'c-7', card: '4111…' }\n";
      for (const output of ['true\n', 'four thousand\n', row])
        assert.ok(written.includes(output), written.join(''));
    });
});

/** A package and all that it needs. */
function withDependencies(name: string): string[] {
  const file = join(ROOT, 'node_modules', name, 'package.json');
  const { dependencies = {} } = JSON.parse(readFileSync(file, 'utf8'));
  return [name, ...Object.keys(dependencies).flatMap(withDependencies)];
}

/** The snippets of docs/envelopes.md in one program, each after the first in a block of its own. */
function envelopes(): string {
  const [first = '', ...others] = blocksOf('docs/envelopes.md', 'ts');
  const imports = /^import .*\n/gm;
  const settings = /connect\((\{.*?^\})\)/ms.exec(blocksOf('README.md', 'ts').join(''))?.[1];
  const all = [first, ...others];
  return [
    "import { readFileSync, createReadStream, createWriteStream, writeFileSync } from 'node:fs';\n",
    ...new Set(all.flatMap((block) => block.match(imports) ?? [])),
    `const options = ${settings};\n`,
    "const row = { id: 'r-1', card: '4111', notes: null, total: 3 };\n",
    "writeFileSync('in', 'streamed');\n",
    first.replaceAll(imports, ''),
    ...others.map((block) => `{\n${block.replaceAll(imports, '')}}\n`),
    "if (readFileSync('back', 'utf8') !== 'streamed') throw new Error('the stream is another');\n",
    "if ((value as { card: string }).card !== '4111…') throw new Error('the value is another');\n",
  ]
    .join('')
    .replaceAll('tenants/acme', 'tenants/demo');
}
