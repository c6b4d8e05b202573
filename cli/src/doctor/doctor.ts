/**
 * Adds `keyward doctor`: finds out why the service cannot be called, one check after the other.
 *
 * - What a check needs is checked before it; where that failed, it is left out.
 * - A token goes to a server that is verified, and to no other.
 */
import type { TLSSocket } from 'node:tls';
import type { Command } from 'commander';
import type { KeywardClient } from 'keyward-client';
import { describe, quoted, UsageError } from '../failures.ts';
import { printText } from '../files.ts';
import { type GlobalOptions, optionsOf } from '../globals.ts';
import { scopeName } from '../names.ts';
import { printable } from '../output/printable.ts';
import { type Connection, connectionOf, withClient } from '../session.ts';
import { Examination, type Finding, type Found, Trouble } from './examination.ts';
import { checkToken, type Identity, read } from './files.ts';
import { reach } from './reach.ts';
import { type Answers, checkClock, checkHealth, checkService } from './service.ts';

/** What those do there who use a key or look after it. */
const PERMISSIONS = [
  'data.encrypt',
  'data.decrypt',
  'keys.get',
  'keys.create',
  'keys.rotate',
  'tenants.get',
  'roleBindings.list',
] as const;
const MARKS = { PASSED: '✓', FAILED: '✗', SKIPPED: '–' } as const;

/** Adds `doctor`. */
export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .argument('[resource]', 'a tenant or key: checks that you may do something there, too')
    .description(
      'find out why the service cannot be called: checks settings, files, network, TLS, clock, ' +
        'token, health and rights, and says what to do',
    )
    .addHelpText('after', '\nThe exit code is 0 if all is well, and 1 if something is wrong.')
    .action(async (resource: string | undefined, _options, its: Command) => {
      const options = optionsOf(its);
      const examination = new Examination();
      await examine(examination, resource, options, its);
      const { findings, passes } = examination;
      await (options.output.isData
        ? options.output.data({ passes, findings })
        : printText(findings.map(lineOf).join('')));
      const failed = findings.filter(({ outcome }) => outcome === 'FAILED').length;
      if (!passes)
        throw new Error(`not all is well: ${failed} of ${findings.length} checks failed`);
    });
}

function lineOf({ check, outcome, found, remedy }: Finding): string {
  const line = `${MARKS[outcome]} ${check.padEnd(12)} ${printable(found)}\n`;
  return remedy === undefined ? line : `${line}${' '.repeat(15)}${printable(remedy)}\n`;
}

async function examine(
  examination: Examination,
  resource: string | undefined,
  options: GlobalOptions,
  command: Command,
): Promise<void> {
  const connection = await examination.check('settings', () => checkSettings(options));
  if (connection === undefined) return;
  const { socket, identity } = await reach(examination, connection.settings, options.timeout);
  const token = await tokenOf(examination, connection, identity);
  const answers = await serviceBy(examination, socket, { identity, token, ...options });
  const isReached = answers !== undefined && !examination.failed('token');
  const rest = resource === undefined ? ['caller'] : ['caller', 'permissions'];
  if (!isReached) return examination.skip(rest, 'because of what is wrong above');
  await withClient(command, async (keyward) => {
    const caller = await examination.check('caller', () => checkCaller(keyward));
    if (resource === undefined) return;
    if (caller === undefined) examination.skip(['permissions'], 'the caller is not known');
    else await examination.check('permissions', () => checkRights(keyward, resource, options));
  });
}

function checkSettings(options: GlobalOptions): Found<Connection> {
  try {
    const value = connectionOf(options);
    const { address, certFile, tokenFile, issuer } = value.settings;
    const proofs = [certFile, tokenFile, issuer].filter((proof) => proof !== undefined);
    return { found: `${address}, with ${proofs.join(' and ')}`, value };
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    throw new Trouble(error.message, 'see "keyward profiles", and "keyward --help" for the flags');
  }
}

/** The token that calls bring, if they bring one and it is good as far as can be seen. */
async function tokenOf(
  examination: Examination,
  { settings, signedIn }: Connection,
  identity: Identity | undefined,
): Promise<string | undefined> {
  const { tokenFile } = settings;
  if (signedIn === undefined && tokenFile === undefined) return undefined;
  return examination.check('token', async () => {
    const text = tokenFile === undefined ? await signInToken(signedIn) : read(tokenFile).trim();
    return checkToken(text, identity?.certificate);
  });
}

async function signInToken(signedIn: Connection['signedIn']): Promise<string> {
  try {
    return (await signedIn?.token()) ?? '';
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    throw new Trouble(error.message, 'sign in with "keyward login"');
  }
}

async function serviceBy(
  examination: Examination,
  socket: TLSSocket | undefined,
  by: { identity: Identity | undefined; token: string | undefined; timeout: number },
): Promise<Answers | undefined> {
  const checks = ['service', 'clock', 'health'];
  if (socket === undefined) {
    examination.skip(checks, 'there is no connection that a call could be made on');
    return undefined;
  }
  const asked = { ...by, timeoutMs: by.timeout };
  const answers = await examination.check('service', () => checkService(socket, asked));
  if (answers === undefined) {
    examination.skip(checks.slice(1), 'it is not Keyward that answers');
    return undefined;
  }
  await examination.check('clock', () => checkClock(answers));
  if (answers.isServing === undefined)
    examination.skip(['health'], 'the server tells it to callers that it knows');
  else await examination.check('health', () => checkHealth(answers));
  return answers;
}

async function checkCaller(keyward: KeywardClient): Promise<Found<string>> {
  try {
    const { name, groups } = await keyward.getCaller();
    const also = groups.length === 0 ? '' : `, of ${groups.join(', ')}`;
    return { found: `you are ${name}${also}`, value: name };
  } catch (error) {
    throw new Trouble(
      describe(error),
      'what you bring is well-formed; ask those who run the service, whose log has the cause',
      error,
    );
  }
}

async function checkRights(
  keyward: KeywardClient,
  given: string,
  { tenant }: GlobalOptions,
): Promise<Found<true>> {
  const resource = scopeName(given, tenant);
  const remedy =
    'ask an access administrator, who sees why with "keyward access explain ' +
    `${quoted(resource)} data.encrypt --principal NAME"`;
  try {
    const { permissions } = await keyward.testPermissions({ resource, permissions: PERMISSIONS });
    if (permissions.length > 0)
      return { found: `on ${resource}: ${permissions.join(', ')}`, value: true };
  } catch (error) {
    throw new Trouble(describe(error), remedy, error);
  }
  throw new Trouble(`on ${resource} you have none of ${PERMISSIONS.join(', ')}`, remedy);
}
