/**
 * Adds `keyward audit …`: reads, exports and verifies the audit log.
 *
 * - `verify` calls no service, and trusts only keys that it is given.
 */
import type { Command } from 'commander';
import {
  type AuditCheckpoint,
  type AuditEntry,
  type AuditEntryContent,
  type AuditExportReport,
  type AuditTreeHead,
  exportAuditLog,
  type KeywardClient,
  KeywardError,
  readAuditEntry,
  verifyAuditExport,
} from 'keyward-client';
import { addState } from './audit-state.ts';
import { UsageError } from './failures.ts';
import { printText, readGiven, readInput, writeStandardOutput } from './files.ts';
import { type GlobalOptions, optionsOf } from './globals.ts';
import { untilTimeout, WATCH_RETRIES } from './jobs.ts';
import type { Tenant } from './names.ts';
import { oneTenant } from './names.ts';
import {
  before,
  count,
  given,
  type ListOptions,
  limitOption,
  withFilter,
  wordsOption,
} from './options.ts';
import type { Columns, Output } from './output/output.ts';
import { printable, printableJson } from './output/printable.ts';
import { AUDIT_ENTRY } from './output/resources.ts';
import { countOn } from './progress.ts';
import { withClient } from './session.ts';

/** The fields that entries can be filtered by. */
const FIELDS = 'request_id, trace_id, caller, method, resource, decision and outcome';

/** How many entries are listed unless the user says otherwise. */
const LISTED = 100;

/** The largest page. */
const PAGE = 1000;

/** The longest note that is read, in bytes. */
const NOTE_BYTES = 1_048_576;

/** Adds `audit`. */
export function addAudit(program: Command): void {
  const audit = program
    .command('audit')
    .description(
      'read, export and verify the audit log: every decided call, and what the service did ' +
        'automatically',
    );
  addList(audit);
  addTail(audit);
  addExport(audit);
  addVerify(audit);
  addState(audit);
  addCheckpoint(audit);
  addPublicKey(audit);
  addCosign(audit);
}

interface ListEntriesOptions extends ListOptions {
  readonly since?: Date;
  readonly until?: Date;
  readonly limit: number;
}

function addList(audit: Command): void {
  withFilter(audit.command('list [tenant]'), FIELDS, 'outcome != OK')
    .description("list a tenant's entries, or all tenants' (-), newest first")
    .option('--since <when>', 'only entries of this time or later, or of the last 2h', before)
    .option('--until <when>', 'only entries before this time, or older than 2h', before)
    .addOption(limitOption().default(LISTED))
    .action((whose: string | undefined, _options, command: Command) =>
      withClient<ListEntriesOptions>(
        command,
        async (keyward, { output, tenant, filter, since, until, limit }) => {
          const parent = whoseEntries(whose, tenant, 'list');
          const request = { parent, ...given({ filter, startTime: since, endTime: until }) };
          const pageSize = Math.max(1, Math.min(limit, PAGE));
          await output.all(
            AUDIT_ENTRY,
            allShown(keyward.auditEntries(request, { pageSize })),
            'audit entries',
          );
        },
      ),
    );
}

async function* allShown(entries: AsyncIterable<AuditEntry>): AsyncIterable<Shown> {
  for await (const entry of entries) yield shown(entry);
}

type Shown = AuditEntryContent & Pick<AuditEntry, 'leafIndex'>;

/** Says of an entry that it cannot be read, and shows its text: the others are shown too. */
function shown(entry: AuditEntry): Shown {
  const { leafIndex, leaf } = entry;
  try {
    const content = readAuditEntry(entry);
    const { time, tenant, method, outcome } = content;
    if ([time, tenant, method, outcome].every((member) => typeof member === 'string'))
      return { leafIndex, ...content };
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
  }
  const outcome = `not readable: ${leaf.toString()}`;
  return { leafIndex, v: 0, id: '', time: '', tenant: '', method: '', outcome };
}

function whoseEntries(
  given: string | undefined,
  tenant: Tenant | undefined,
  command: string,
): string {
  return oneTenant(
    given,
    tenant,
    `cannot ${command} entries: no tenant is named; write keyward audit ${command} acme, ` +
      'or - for all tenants',
  );
}

interface TailOptions extends ListOptions {
  readonly from?: number;
}

function addTail(audit: Command): void {
  withFilter(audit.command('tail [tenant]'), FIELDS, 'decision = denied')
    .description("follow a tenant's entries, or all tenants' (-), as they arrive")
    .option(
      '--from <entry>',
      'begin with this entry, by its number in the log (default: the next one)',
      count,
    )
    .addHelpText(
      'after',
      '\nEach entry is one line: words, or with --output json the entry as it is in the log.' +
        '\nWithout --timeout the command continues until you stop it.',
    )
    .action((whose: string | undefined, _options, command: Command) =>
      withClient<TailOptions>(
        command,
        async (keyward, { output, tenant, filter, from }) => {
          const parent = whoseEntries(whose, tenant, 'tail');
          const firstLeafIndex = from ?? (await sizeOf(keyward));
          const request = { parent, firstLeafIndex, ...given({ filter }) };
          await untilTimeout(keyward, command, async (options) => {
            for await (const entries of keyward.readAuditEntries(request, options))
              for (const entry of entries) await follow(output, entry);
          });
        },
        { retries: WATCH_RETRIES },
      ),
    );
}

/** How many entries were signed; none is no error. */
async function sizeOf(keyward: KeywardClient): Promise<number> {
  try {
    return (await keyward.getAuditCheckpoint()).treeSize;
  } catch (error) {
    if (error instanceof KeywardError && error.code === 'NOT_FOUND') return 0;
    throw error;
  }
}

/** Prints an entry: for people on a line, and for programs what is in the log, in JSON exactly. */
async function follow(output: Output, entry: AuditEntry): Promise<void> {
  if (output.format === 'yaml') await output.data(shown(entry));
  else if (output.isData) await writeStandardOutput(`${leafOf(entry)}\n`);
  else await printText(`${words(entry)}\n`);
}

/** The entry byte for byte, but on a terminal without what would command it. */
function leafOf({ leaf }: AuditEntry): string {
  return process.stdout.isTTY ? printableJson(leaf.toString()) : leaf.toString();
}

function words(entry: AuditEntry): string {
  const item = shown(entry);
  return Object.values(AUDIT_ENTRY)
    .map((cell) => printable(cell(item)) || '-')
    .join('  ');
}

interface ExportOptions extends CheckpointOptions {
  readonly from?: number;
}

const EXPORTED: Columns<{
  readonly folder: string;
  readonly entries: number;
  readonly firstLeafIndex: number;
  readonly treeSize: number;
}> = {
  FOLDER: ({ folder }) => folder,
  ENTRIES: ({ entries }) => String(entries),
  FROM: ({ firstLeafIndex }) => String(firstLeafIndex),
  'LOG SIZE': ({ treeSize }) => String(treeSize),
};

function addExport(audit: Command): void {
  audit
    .command('export <folder>')
    .description('export the log, as it was last signed, to a folder that anyone can verify')
    .option(
      '--from <entry>',
      'begin with this entry, a multiple of 256; earlier ones are exported as hashes only',
      count,
    )
    .option(
      '--cosigned',
      'end with the last checkpoint that a witness has cosigned, not with the last one',
    )
    .addHelpText(
      'after',
      '\nThe export has all tenants. docs/audit.md describes the folder. A terminal on ' +
        'standard error shows the progress.',
    )
    .action((folder: string, _options, command: Command) =>
      withClient<ExportOptions>(
        command,
        async (keyward, { output, from, cosigned }) => {
          const progress = countOn(process.stderr);
          const written = await exportAuditLog(keyward, folder, {
            ...given({ firstLeafIndex: from, cosigned }),
            onProgress: progress.show,
          })
            .catch(unusable)
            .finally(progress.end);
          const { firstLeafIndex, entries, checkpoint } = written;
          await output.one(EXPORTED, {
            folder,
            entries,
            firstLeafIndex,
            treeSize: checkpoint.treeSize,
          });
        },
        { retries: WATCH_RETRIES },
      ),
    );
}

/** What of the options the client cannot use. */
function unusable(error: unknown): never {
  const { code, message } = error as NodeJS.ErrnoException;
  if (error instanceof RangeError || error instanceof TypeError || code === 'ENOTEMPTY')
    throw new UsageError(message, { cause: error });
  throw error;
}

interface VerifyOptions extends GlobalOptions {
  readonly publicKey: readonly string[];
  readonly known: readonly string[];
  readonly witness: readonly string[];
}

/** A report, with the trees that its resumptions name as JSON has them. */
type Verified = Omit<AuditExportReport, 'resumptions'> & {
  readonly resumptions: readonly {
    readonly origin: string;
    readonly left: WithText<AuditTreeHead>;
    readonly from: WithText<AuditTreeHead>;
  }[];
};

const VERIFIED: Columns<WithText<Verified>> = {
  LOG: ({ origin }) => origin,
  VERIFIED: ({ entries }) => String(entries),
  FROM: ({ firstLeafIndex }) => String(firstLeafIndex),
  'LOG SIZE': ({ treeSize }) => String(treeSize),
  'ROOT HASH': ({ rootHash }) => rootHash,
  RESUMED: ({ resumptions }) =>
    resumptions
      .map(({ origin, from, left }) => {
        const behind = `${left.origin} of ${left.treeSize} entries`;
        return `${origin} after ${from.treeSize} entries, leaving behind ${behind}`;
      })
      .join('; '),
  APPROVALS: ({ approvals: { operations, decisions, begunBefore } }) => {
    const counts = { operations, decisions, 'begun before': begunBefore.length };
    const some = Object.entries(counts).filter(([, count]) => count > 0);
    return some.map(([what, count]) => `${what}: ${count}`).join(', ');
  },
  'COSIGNED BY': ({ cosignatures }) =>
    cosignatures.map(({ witness, time }) => `${witness} (${time.toISOString()})`).join(', '),
};

function addVerify(audit: Command): void {
  audit
    .command('verify <folder>')
    .description(
      'verify an export without a service: that its entries are all those that were ' +
        'signed, in order',
    )
    .addOption(
      wordsOption(
        '--public-key <file>',
        "the log's public key, PEM; repeatable, for replaced ones",
      ),
    )
    .addOption(
      wordsOption(
        '--known <file>',
        'an earlier checkpoint, or one from elsewhere, that the export must continue',
      ),
    )
    .addOption(
      wordsOption('--witness <key>', 'the verifier key of a witness that must have cosigned'),
    )
    .addHelpText(
      'after',
      '\nGet the public key from another source than the export: the one in it proves nothing.' +
        '\nA failure is named by its kind, as in "ENTRY: entry 17: …", and the exit code is 1.' +
        '\n\n  keyward audit verify export-2027-01 --public-key log.pem --known ' +
        'export-2026-12/checkpoint',
    )
    .action(async (folder: string, _options, command: Command) => {
      const { output, publicKey, known, witness } = optionsOf<VerifyOptions>(command);
      if (publicKey.length === 0)
        throw new UsageError(
          "cannot verify the export: no key is given; give --public-key, the log's key " +
            'from another source',
        );
      const progress = countOn(process.stderr);
      const report = await verifyAuditExport(folder, {
        publicKeys: publicKey.map((file) => readGiven(file).toString()),
        known: known.map(readGiven),
        witnesses: witness,
        onProgress: progress.show,
      })
        .catch(unusable)
        .finally(progress.end);
      const resumptions = report.resumptions.map(({ origin, left, from }) => ({
        origin,
        left: withText(left),
        from: withText(from),
      }));
      await output.one(VERIFIED, withText({ ...report, resumptions }));
    });
}

/** With the root hash as JSON has bytes. */
type WithText<T> = Omit<T, 'rootHash'> & { readonly rootHash: string };

function withText<T extends { readonly rootHash: Buffer }>(facts: T): WithText<T> {
  return { ...facts, rootHash: facts.rootHash.toString('base64') };
}

interface CheckpointOptions {
  readonly cosigned?: boolean;
}

function addCheckpoint(audit: Command): void {
  audit
    .command('checkpoint')
    .description(
      'show the last signed checkpoint, as a signed note to keep, or to have cosigned by witnesses',
    )
    .option('--cosigned', 'show the last one that a witness has cosigned, with its cosignatures')
    .action((_options, command: Command) =>
      withClient<CheckpointOptions>(command, async (keyward, { output, cosigned }) => {
        const checkpoint = await keyward.getAuditCheckpoint(given({ cosigned }));
        await printCheckpoint(output, checkpoint);
      }),
    );
}

/** The note alone, unless JSON is wanted. */
async function printCheckpoint(output: Output, checkpoint: AuditCheckpoint): Promise<void> {
  await (output.isData ? output.data(withText(checkpoint)) : printText(checkpoint.note));
}

const NOT_COMPARED =
  'this key is from the service’s database, and was not compared with the HSM token’s;' +
  ' compare it with what "keyward-server audit public-key" prints';

function addPublicKey(audit: Command): void {
  audit
    .command('public-key')
    .description('print the public key of the last checkpoint, as PEM')
    .addHelpText(
      'after',
      '\nIt is the one in the service’s database, which is said on standard error. The one in the' +
        '\nHSM token is printed by "keyward-server audit public-key", which an operator can run.',
    )
    .action((_options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        await printText((await keyward.getAuditCheckpoint()).publicKey);
        output.remark(NOT_COMPARED);
      }),
    );
}

function addCosign(audit: Command): void {
  audit
    .command('cosign <file>')
    .description(
      "give the service a checkpoint's note with witnesses' cosignatures (- for standard input)",
    )
    .action((file: string, _options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        const note = await readInput(
          file,
          NOTE_BYTES,
          () => 'cannot read the note: it is too long for a checkpoint',
        );
        const checkpoint = await keyward.addAuditCosignatures({ note: note.toString() });
        await printCheckpoint(output, checkpoint);
      }),
    );
}
