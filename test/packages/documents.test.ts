/**
 * The README's first calls, run as they are written there, by the callers that `npm start` makes.
 *
 * A line that ends with `# refused: WORD` must fail and report that word; every other must succeed.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { connect } from 'keyward-client';
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
import { type Environment, newEnvironment, startService } from '../support/kit.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const README = readFileSync(join(ROOT, 'README.md'), 'utf8');
const SECTION = /^## A first call\n(.*?)^## /ms.exec(README)?.[1] ?? '';

const running = new AsyncDisposableStack();
let environment: Environment;
let port: number;

before(async () => {
  environment = running.use(await newEnvironment());
  const paths = environmentPaths(environment.directory);
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
  writePrograms();
  await inFolder('npx', ['keyward', 'profiles', 'allow']);
});

after(() => running.disposeAsync());

const programs = () => join(environment.directory, 'programs');

/** `npx keyward` as it is in a clone, and a browser in which Alice signs in. */
function writePrograms(): void {
  mkdirSync(programs());
  const write = (name: string, script: string) => {
    writeFileSync(join(programs(), name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(programs(), name), 0o755);
  };
  const main = join(ROOT, 'cli', 'src', 'main.ts');
  write('npx', `shift\nexec '${process.execPath}' '${main}' "$@"`);
  const browse = join(ROOT, 'test', 'cli', 'browse.ts');
  write('xdg-open', `exec '${process.execPath}' '${browse}' "$1" alice`);
}

const blocks = (language: string): string[] =>
  [...SECTION.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map(
    ([, block]) => block ?? '',
  );

function inFolder(program: string, args: readonly string[]) {
  const env = {
    PATH: `${programs()}:${process.env['PATH']}`,
    HOME: environment.directory,
    DISPLAY: ':0',
  };
  const options = { cwd: environment.directory, env };
  return new Promise<{ failed: boolean; output: string }>((resolve) => {
    execFile(program, args, options, (error, stdout, stderr) =>
      resolve({ failed: error !== null, output: `${stdout}${stderr}` }),
    );
  });
}

test('the README’s first calls succeed, or are refused as it says', async () => {
  const commands = blocks('sh').flatMap((block) =>
    block
      .replaceAll('\\\n', '')
      .split('\n')
      .filter((line) => line !== ''),
  );
  assert.ok(commands.length > 15);
  for (const command of commands) {
    const refusal = /# refused: (\S+)$/.exec(command)?.[1];
    const { failed, output } = await inFolder('sh', ['-c', command]);
    assert.equal(failed, refusal !== undefined, `${command}\n${output}`);
    if (refusal !== undefined) assert.ok(output.includes(refusal), `${command}\n${output}`);
  }
});

test('the README’s TypeScript gets the same data key back', async () => {
  const [snippet = ''] = blocks('ts');
  const client = pathToFileURL(join(ROOT, 'client', 'src', 'index.ts')).href;
  const file = join(environment.directory, 'first-call.ts');
  const program = snippet
    .replace('127.0.0.1:7443', `127.0.0.1:${port}`)
    .replace("'keyward-client'", `'${client}'`);
  writeFileSync(file, `${program}console.log(again.plaintext.equals(plaintext));\n`);
  const { output } = await inFolder(process.execPath, [file]);
  assert.equal(output, 'true\n');
});
