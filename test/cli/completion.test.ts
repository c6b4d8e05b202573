/** What shells complete, in a real shell; and what `version` tells. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import { wireJob } from '../client/fake-service.ts';
import { programFrom } from '../support/compiled.ts';
import { JOB, KEY, profilesFile, TENANT, useFakeService } from './fake.ts';

const MAIN = programFrom('cli/src/main.ts');
const fake = useFakeService();
const { keyward, refuse } = fake;

/** What the command offers after these words. */
async function offered(words: readonly string[], env = {}): Promise<string[]> {
  const { code, stdout, stderr } = await keyward(
    ['__complete', '--', '--timeout', '1m', ...words],
    { env },
  );
  assert.deepEqual([code, stderr], [0, '']);
  return stdout.split('\n').slice(0, -1);
}

describe('completion', () => {
  it('offers commands, options and their values', async () => {
    assert.deepEqual(await offered(['ke']), ['keys']);
    assert.deepEqual(await offered(['keys', 'ver']), ['versions', 'version']);
    assert.deepEqual(await offered(['keys', 'list', '--fi']), ['--filter']);
    assert.deepEqual(await offered(['keys', 'list', '--output', 'json']), ['json', 'jsonl']);
    assert.deepEqual(await offered(['completion', '']), ['bash', 'zsh', 'fish']);
    assert.deepEqual(await offered(['help', 'ke']), ['keys']);
    assert.deepEqual(await offered(['help', 'keys', 'rot']), ['rotate']);
    assert.deepEqual(await offered(['keys', 'help', 'rot']), ['rotate']);
    assert.deepEqual(await offered(['help', 'keys', 'rotate', '']), []);
    assert.deepEqual(await offered(['--output=jsonl']), ['--output=jsonl']);
    assert.deepEqual(await offered(['--output', '=', 'jsonl']), ['jsonl']);
    assert.ok((await offered(['--output', '='])).includes('yaml'));
    assert.ok((await offered(['--output=yaml', ''])).includes('keys'));
    assert.ok(!(await offered([''])).includes('__complete'));
  });

  it('offers names that the service has, where their tenant is known', async () => {
    fake.handlers['ListTenants'] = () => ({
      tenants: [TENANT, { ...TENANT, name: 'tenants/$(reboot)' }],
    });
    assert.deepEqual(await offered(['tenants', 'get', '']), ['acme']);
    assert.deepEqual(await offered(['keys', 'get', '--tenant', '']), ['acme']);
    assert.deepEqual(await offered(['keys', 'get', '--tenant', 'acme', 'o']), ['orders']);
    assert.deepEqual(await offered(['keys', 'get', 'o'], { KEYWARD_TENANT: 'acme' }), ['orders']);
    assert.deepEqual(await offered(['keys', 'get', 'tenants/']), ['tenants/acme/keys/']);
    assert.deepEqual(await offered(['keys', 'get', 'tenants/acme/']), [KEY]);
    fake.handlers['ListRewrapJobs'] = () => ({ rewrapJobs: [wireJob(JOB)] });
    assert.deepEqual(await offered(['jobs', 'watch', 'tenants/']), ['tenants/acme/rewrapJobs/']);
    assert.deepEqual(await offered(['jobs', 'watch', 'tenants/acme/']), [JOB]);
    const own = await offered(['jobs', 'watch', '--tenant', 'acme', '']);
    assert.deepEqual(own, [JOB.split('/').at(-1)]);
  });

  it('is silent where the service refuses or is not there', async () => {
    refuse('ListTenants', { code: status.PERMISSION_DENIED, reason: 'PERMISSION_MISSING' });
    assert.deepEqual(await offered(['tenants', 'get', '']), []);
    const nowhere = { KEYWARD_ADDRESS: '127.0.0.1:1' };
    assert.deepEqual(await offered(['tenants', 'get', ''], nowhere), []);
    assert.deepEqual(await offered(['tenants', 'get', ''], { KEYWARD_PROFILE: 'none' }), []);
  });

  it('refuses shells that it does not know', async () => {
    const { code, stderr } = await keyward('completion tcsh');
    assert.deepEqual([code, /known are bash, zsh, fish/.test(stderr)], [2, true]);
  });
});

/** Runs a script in a shell in which `keyward` is the command. */
async function inShell(shell: string, script: string): Promise<string> {
  const child = spawn(shell, ['-c', script], {
    env: { PATH: process.env['PATH'], KEYWARD_PROFILES: profilesFile(fake.folder) },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [output] = await Promise.all([text(child.stdout), once(child, 'close')]);
  return output;
}

function isInstalled(shell: string): boolean {
  return spawnSync(shell, ['-c', 'true']).error === undefined;
}

describe('the script', () => {
  const call = `"${process.execPath}" "${MAIN}"`;

  it('completes in bash', async (t) => {
    if (!isInstalled('bash')) return t.skip('bash is not installed');
    const script = `
      keyward() { ${call} "$@"; }
      source <(keyward completion bash)
      try() {
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _keyward keyward; echo "\${COMPREPLY[*]}"
      }
      try keyward keys res
      try keyward --timeout 1m keys get --tenant acme ord
      complete -p keyward`;
    assert.equal(
      await inShell('bash', script),
      'resume restore\norders\ncomplete -o default -F _keyward keyward\n',
    );
  });

  it('completes in zsh, on a terminal', async (t) => {
    if (!isInstalled('zsh')) return t.skip('zsh is not installed');
    const script = `
      zmodload zsh/zpty; export TERM=dumb
      zpty shell zsh -f -i
      zpty -w shell 'keyward() { ${call} "$@"; }; autoload -U compinit; compinit -D'
      zpty -w shell 'source <(keyward completion zsh); print "$_comps[keyward]" is loaded'
      zpty -r shell out '*_keyward is loaded*'
      try() { zpty -w -n shell "$1"$'\\t'; zpty -r shell out "*$2 *" && print -- "$2"; }
      try 'keyward --timeout 1m keys rot' rotate
      try '--tenant acme ord' orders
      try '--output=y' --output=yaml`;
    assert.equal(await inShell('zsh', script), 'rotate\norders\n--output=yaml\n');
  });

  it('completes in fish', async (t) => {
    if (!isInstalled('fish')) return t.skip('fish is not installed');
    const script = `
      function keyward; ${call} $argv; end
      keyward completion fish | source
      complete -C 'keyward keys res'
      complete -C 'keyward --timeout 1m keys get --tenant acme ord'
      complete -C 'keyward encrypt-file package.j'`;
    assert.equal(await inShell('fish', script), 'restore\nresume\norders\npackage.json\n');
  });
});

describe('version', () => {
  it('is the command’s and the service’s, or why that is not known', async () => {
    const known = JSON.parse((await keyward('version -o json')).stdout);
    assert.deepEqual(Object.keys(known), ['command', 'service', 'address']);
    assert.match(known.command, /^\d+\.\d+\.\d+/);
    refuse('GetServiceStatus', { code: status.PERMISSION_DENIED, message: 'No.' });
    const unknown = await keyward('version');
    assert.equal(unknown.code, 0);
    assert.match(unknown.stdout, /\n\S+ +not known +\S+\n$/);
    assert.match(
      unknown.stderr,
      /^keyward: the service's release is not known: PERMISSION_DENIED: No\./,
    );
  });
});
