/**
 * Adds `keyward approvals …`: operations that wait for others to approve them, and decisions on
 * them.
 *
 * - A decision is signed in the person's browser, by their passkey, over what the page there shows.
 * - What an operation is, is shown here before the browser is opened.
 */
import { createInterface } from 'node:readline/promises';
import type { Command } from 'commander';
import type { KeywardClient, PasskeyAssertion, PendingOperation } from 'keyward-client';
import { UsageError } from './failures.ts';
import { untilTimeout } from './jobs.ts';
import { lastPart, oneTenant, operationName } from './names.ts';
import {
  type ChangeOptions,
  changeOf,
  type ListOptions,
  limitOption,
  withFilter,
  withRequestId,
} from './options.ts';
import type { Columns } from './output/output.ts';
import { printable, printableLines } from './output/printable.ts';
import { whenOf } from './output/resources.ts';
import { withClient } from './session.ts';
import { bytesIn, type SignOffOptions, signOff, tellOnError } from './sign-off.ts';

const OPERATION: Columns<PendingOperation> = {
  NAME: ({ name }) => name,
  STATE: ({ state, errorReason }) => (errorReason === '' ? state : `${state} (${errorReason})`),
  METHOD: ({ method }) => lastPart(method),
  RESOURCE: ({ resource }) => resource,
  REQUESTER: ({ requester }) => requester,
  APPROVALS: (operation) => `${approvalsOf(operation)} of ${operation.approvalsRequired}`,
  EXPIRES: ({ expireTime }) => whenOf(expireTime),
};

function approvalsOf({ decisions }: PendingOperation): number {
  return decisions.filter(({ decision }) => decision === 'APPROVE').length;
}

/** Adds `approvals`. */
export function addApprovals(program: Command): void {
  const approvals = program
    .command('approvals')
    .description('operations that wait for others to approve them; docs/people.md');
  withFilter(approvals.command('list [tenant]'), 'state and requester', 'state = PENDING')
    .addOption(limitOption())
    .description("list a tenant's operations that wait, and those that ended within 90 days")
    .action((whose: string | undefined, _options, command: Command) =>
      withClient<ListOptions>(command, async (keyward, { output, tenant, filter = '' }) => {
        const parent = oneTenant(whose, tenant, questionFor('list'));
        const operations = keyward.pendingOperations(parent, { filter, pageSize: 1_000 });
        await output.all(OPERATION, operations, 'pending operations');
      }),
    );
  approvals
    .command('show <operation>')
    .description('show what would be performed, by whom it is asked for, and what was decided')
    .action((named: string, _options, command: Command) =>
      withClient(command, async (keyward, { output, tenant }) => {
        const found = await keyward.getPendingOperation({ name: operationName(named, tenant) });
        await output.described(readableOf(found), textOf(found));
      }),
    );
  addDecision(approvals, 'approve');
  addDecision(approvals, 'reject');
  addCancel(approvals);
  addBreakGlass(approvals);
  addWatch(approvals);
}

function questionFor(verb: string): string {
  return (
    `cannot ${verb} operations: no tenant is named; write keyward approvals ${verb} acme, or ` +
    'system for those of the service'
  );
}

interface DecideOptions extends ChangeOptions {
  readonly browser: boolean;
}

function addDecision(approvals: Command, decision: 'approve' | 'reject'): void {
  const outcome =
    decision === 'approve'
      ? 'once enough have approved it, the service performs it'
      : 'then it is not performed';
  withRequestId(approvals.command(`${decision} <operation>`))
    .description(`${decision} an operation with your passkey, in your browser; ${outcome}`)
    .option('--no-browser', 'only print the URL, to be opened on this machine')
    .action((named: string, _options, command: Command) =>
      withClient<DecideOptions>(
        command,
        async (keyward, { output, tenant, browser, ...options }) => {
          const name = operationName(named, tenant);
          const operation = await keyward.getPendingOperation({ name });
          requirePending(operation, decision);
          const own = await ownPasskeys(keyward, `${decision} ${name}`);
          tellOnError(textOf(operation));
          await confirm(decision);
          const assertion = await signDecision(operation, own, decision, browser);
          const request = { name, assertion, ...changeOf(options) };
          const decided = await (decision === 'approve'
            ? keyward.approveOperation(request)
            : keyward.rejectOperation(request));
          await (output.isData ? output.data(readableOf(decided)) : output.one(OPERATION, decided));
        },
      ),
    );
}

function requirePending({ name, state }: PendingOperation, verb: string): void {
  if (state !== 'PENDING') throw new Error(`cannot ${verb} ${name}: it is ${state}`);
}

/** Asks on a terminal; elsewhere the page is enough. */
async function confirm(verb: string): Promise<void> {
  if (!process.stdin.isTTY || !process.stderr.isTTY) return;
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await lines.question(`Go on to ${verb} it in your browser? [y/N] `);
    if (!/^y(es)?$/i.test(answer.trim())) throw new Error(`did not ${verb} it`);
  } finally {
    lines.close();
  }
}

/** What a page has to know of a person's passkeys. */
interface OwnPasskeys {
  readonly credentialIds: readonly string[];
  readonly rpId: string;
}

/** Returns the caller's passkeys. Throws UsageError where there are none to do that with. */
async function ownPasskeys(keyward: KeywardClient, what: string): Promise<OwnPasskeys> {
  const credentialIds: string[] = [];
  let rpId = '';
  for await (const passkey of keyward.passkeys({})) {
    credentialIds.push(lastPart(passkey.name));
    rpId = passkey.relyingPartyId;
  }
  if (credentialIds.length === 0)
    throw new UsageError(
      `cannot ${what}: you have no passkey; make one by "keyward passkeys register"`,
    );
  return { credentialIds, rpId };
}

/** Has the person's passkey sign a decision on the operation. */
async function signDecision(
  operation: PendingOperation,
  own: OwnPasskeys,
  decision: 'approve' | 'reject',
  browser: boolean,
): Promise<PasskeyAssertion> {
  const { name, method, requester, request, expireTime, environmentId } = operation;
  if (expireTime === undefined) throw new Error(`cannot ${decision} ${name}: it has no expiry`);
  const order = {
    kind: 'decide',
    environmentId,
    operation: {
      ...{ name, method, requester },
      request: request.toString('base64url'),
      expireTime: expireTime.toISOString(),
    },
    ...{ decision, ...own },
  };
  const withinMs = expireTime.getTime() - Date.now();
  const answer = await signOff(operation.signOffUrl, order, { ...toTerminal, browser, withinMs });
  const bytes = bytesIn(answer);
  return {
    credentialId: bytes('credentialId'),
    clientDataJson: bytes('clientDataJson'),
    authenticatorData: bytes('authenticatorData'),
    signature: bytes('signature'),
  };
}

const toTerminal: Pick<SignOffOptions, 'tell'> = { tell: tellOnError };

function addCancel(approvals: Command): void {
  withRequestId(approvals.command('cancel <operation>'))
    .description('cancel an operation that you have asked for')
    .action((named: string, _options, command: Command) =>
      withClient<ChangeOptions>(command, async (keyward, { output, tenant, ...options }) => {
        const name = operationName(named, tenant);
        const cancelled = await keyward.cancelOperation({ name, ...changeOf(options) });
        await output.one(OPERATION, cancelled);
      }),
    );
}

function addBreakGlass(approvals: Command): void {
  withRequestId(approvals.command('break-glass <operation>'))
    .description(
      'put an operation that you asked for under a rule for emergencies; operators are alerted',
    )
    .requiredOption('--reason <text>', 'why it cannot wait; in the alert and the audit log')
    .action((named: string, _options, command: Command) =>
      withClient<ChangeOptions & { readonly reason: string }>(
        command,
        async (keyward, { output, tenant, reason, ...options }) => {
          const name = operationName(named, tenant);
          const broken = await keyward.breakGlass({ name, reason, ...changeOf(options) });
          await output.one(OPERATION, broken);
        },
      ),
    );
}

function addWatch(approvals: Command): void {
  approvals
    .command('watch [tenant]')
    .description('print operations that wait, and each that is new or changes, until interrupted')
    .action((whose: string | undefined, _options, command: Command) =>
      withClient(command, async (keyward, { output, tenant }) => {
        const parent = oneTenant(whose, tenant, questionFor('watch'));
        await untilTimeout(keyward, command, async (options) => {
          for await (const operation of keyward.watchPendingOperations({ parent }, options))
            await output.described(readableOf(operation), lineOf(operation));
        });
      }),
    );
}

function lineOf(operation: PendingOperation): string {
  const cells = Object.values(OPERATION).map((cell) => printable(cell(operation)));
  return `${cells.join('  ')}\n`;
}

/** An operation for programs: what is JSON in bytes, as JSON. */
function readableOf({ request, preview, ...operation }: PendingOperation) {
  return { ...operation, request: jsonIn(request), preview: jsonIn(preview) };
}

function jsonIn(bytes: Buffer): unknown {
  if (bytes.length === 0) return undefined;
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    return bytes.toString('base64');
  }
}

/** An operation for people, line by line. */
function textOf(operation: PendingOperation): string {
  const { name, state, method, resource, requester, rule, decisions } = operation;
  const { request, preview, createTime, expireTime, errorMessage } = operation;
  const facts = [
    ['Operation', name],
    ['State', errorMessage === '' ? state : `${state}: ${errorMessage}`],
    ['Method', method],
    ['Resource', resource],
    ['Asked for by', requester],
    ['Asked for at', whenOf(createTime)],
    ['Expires', whenOf(expireTime)],
    ['Rule', operation.isGlassBroken ? `${rule}, for emergencies` : rule],
    ['Approvals', `${approvalsOf(operation)} of ${operation.approvalsRequired}`],
    ...decisions.map(({ decision, approver, decideTime }) => [
      decision === 'APPROVE' ? 'Approved by' : 'Rejected by',
      `${approver}, ${whenOf(decideTime)}`,
    ]),
  ];
  const width = Math.max(...facts.map(([what = '']) => what.length));
  const lines = facts.map(
    ([what = '', value = '']) => `${what.padEnd(width)}  ${printable(value)}`,
  );
  const blocks = [
    ['What would be performed', request],
    ['What a call that only looks was answered', preview],
  ] as const;
  for (const [title, bytes] of blocks)
    if (bytes.length > 0)
      lines.push('', `${title}:`, printableLines(JSON.stringify(jsonIn(bytes), undefined, 2)));
  return `${lines.join('\n')}\n`;
}
