/** Every exit code that docs/command.md lists, each for every reason that it states there. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import { EXIT_CODES } from '../../cli/src/failures.ts';
import { wireJob } from '../client/fake-service.ts';
import { COMPILED, programFrom } from '../support/compiled.ts';
import { JOB, KEY, profilesFile, useFakeService, WIRE_SERVICE_STATUS } from './fake.ts';

const MAIN = programFrom('cli/src/main.ts');
const fake = useFakeService();

/** Runs the command, and returns its exit code. */
async function codeOf(words: string, env: Record<string, string> = {}): Promise<number | null> {
  return (await fake.keyward(words, { env })).code;
}

/** The same, where what it prints goes to a full disk. */
async function codeOnFullDisk(words: string): Promise<number | null> {
  const full = openSync('/dev/full', 'w');
  const child = spawn(process.execPath, [MAIN, ...words.split(' ')], {
    env: { PATH: process.env['PATH'], KEYWARD_PROFILES: profilesFile(fake.folder), ...COMPILED },
    stdio: ['ignore', full, 'ignore'],
  });
  const [code] = await once(child, 'close');
  closeSync(full);
  return code;
}

const watched = (state: string) => () => {
  fake.handlers['WatchRewrapJob'] = () => [wireJob(JOB, { state: `REWRAP_JOB_STATE_${state}` })];
  return codeOf(`jobs watch ${JOB}`);
};

/** Of an export that did not end. */
function verifyHalf(): Promise<number | null> {
  const folder = join(fake.folder, 'below', 'half');
  mkdirSync(folder);
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  writeFileSync(join(folder, 'log.pem'), publicKey.export({ type: 'spki', format: 'pem' }));
  return codeOf('audit verify half --public-key half/log.pem');
}

const NOWHERE = { KEYWARD_ADDRESS: '127.0.0.1:1' };

/** By code and reason, what ends a command so. */
const PROVOCATIONS: readonly Readonly<Record<string, readonly (() => Promise<number | null>)[]>>[] =
  [
    { done: [() => codeOf('tenants list'), () => codeOf('help keys'), () => codeOf('--version')] },
    {
      'the service refused': [
        () => {
          fake.refuse('GetKey', { code: status.NOT_FOUND, reason: 'RESOURCE_NOT_FOUND' });
          return codeOf(`keys get ${KEY}`);
        },
      ],
      'an answer could not be written': [() => codeOnFullDisk('tenants list')],
      'a watched job ended PARTIAL or CANCELLED': [watched('PARTIAL'), watched('CANCELLED')],
      'a tested permission is missing': [
        () => {
          fake.handlers['TestPermissions'] = () => ({ permissions: [] });
          return codeOf(`access test ${KEY} keys.get`);
        },
      ],
      'a receiver did not take a test': [
        () => {
          const test = { receiver: 'ops', delivered: false, error: 'cannot reach it' };
          fake.handlers['TestAlert'] = () => ({ tests: [test] });
          return codeOf('alerts test');
        },
      ],
      'an export failed verification': [verifyHalf],
      'a status or doctor has something to look into': [
        () => {
          fake.handlers['GetServiceStatus'] = () => ({
            ...WIRE_SERVICE_STATUS,
            problems: ['no HSM agent is ready'],
          });
          return codeOf('status');
        },
        () => codeOf('doctor', NOWHERE),
      ],
    },
    {
      'an argument, option or file cannot be used': [
        () => codeOf('keys get Orders!'),
        () => codeOf('keys get'),
        () => codeOf('keys lits'),
        () => codeOf('tenants list --colour'),
        () => codeOf('tenants list -o xml'),
        () => codeOf(`encrypt ${KEY} --in absent`),
        () => codeOf('tenants list', { KEYWARD_CA_FILE: 'absent' }),
      ],
    },
    {
      'the service cannot be reached': [
        () => codeOf('tenants list', NOWHERE),
        () => codeOf('encrypt-file - --key files --tenant acme', NOWHERE),
      ],
    },
    {
      'the call waits for others to approve it': [
        () => {
          fake.refuse('ScheduleKeyDestruction', {
            code: status.FAILED_PRECONDITION,
            reason: 'APPROVAL_REQUIRED',
          });
          return codeOf(`keys destroy ${KEY} --confirm e`);
        },
      ],
    },
  ];

/** The reasons of a code, as the text separates them. */
function reasonsIn(text: string, code: number): string[] {
  return code === 1 ? text.split(/; or |, or |, /) : [text];
}

describe('an exit code', () => {
  it('is provoked below for each reason that is documented, and for no other', () => {
    assert.deepEqual(
      PROVOCATIONS.map((reasons) => Object.keys(reasons)),
      EXIT_CODES.map(reasonsIn),
    );
  });

  for (const [code, reasons] of PROVOCATIONS.entries())
    for (const [reason, ways] of Object.entries(reasons))
      it(`is ${code} where ${reason}`, async () => {
        for (const [at, provoke] of ways.entries())
          assert.equal(await provoke(), code, `way ${at + 1}`);
      });
});
