/**
 * The program `keyward-server`: which commands there are, their arguments, options and help, and
 * how an error ends one. Output that cannot be written ends none: what a command has begun, it
 * finishes; its exit status is not 0 then, unless it was the reader that went.
 *
 * Knows nothing of what a command does: that is in `commands/`, a file for each or for each group,
 * which is loaded when it is run.
 */
import { Command, InvalidArgumentError } from 'commander';
import { RELEASE } from './commands/release.ts';

process.stdout.on('error', outputLost);
process.stderr.on('error', () => {});

const program = new Command('keyward-server')
  .description('Keyward: key management and encryption in front of a PKCS#11 HSM')
  .version(RELEASE);
const tokenCommands = () => import('./commands/token.ts');
const auditCommands = () => import('./commands/audit.ts');
program
  .command('serve')
  .description('serve gRPC until SIGTERM')
  .action(loaded(async () => (await import('./commands/servers.ts')).serveByAll));
program
  .command('agents')
  .description('start HSM agents for servers of another user, at KEYWARD_AGENT_HOST_LISTEN')
  .action(loaded(async () => (await import('./commands/agents.ts')).hostAgents));
program
  .command('health')
  .description(
    'check that the server of this container or machine serves, at KEYWARD_HEALTH_LISTEN',
  )
  .action(loaded(async () => (await import('./commands/health.ts')).reportHealth));
program
  .command('migrate')
  .description('migrate the database’s schema to this release')
  .action(loaded(async () => (await import('./commands/migrate.ts')).migrateDatabase));
const token = program
  .command('token')
  .description('manage the HSM token, with the PIN file at hand');
token
  .command('init')
  .description(
    'probe the token, create the environment’s objects in it and record both; running it again changes nothing',
  )
  .action(loaded(async () => (await tokenCommands()).initToken));
token
  .command('check')
  .description('log in once, also after a wrong PIN, and check the token’s objects')
  .action(loaded(async () => (await tokenCommands()).reportToken));
token
  .command('status')
  .description(
    'show the token, every object with every attribute, and how many key versions are under each root key',
  )
  .option('--json', 'print the contract’s TokenStatus message, for programs')
  .action(loaded(async () => (await tokenCommands()).showToken));
token
  .command('destroy-key')
  .alias('destroy-root')
  .description(
    'destroy a replaced root or seal key, once nothing is under it and no agent holds it',
  )
  .argument('<uuid>', 'its id, as `token status` and `keyward hsm keys` show it')
  .action(loaded(async () => (await tokenCommands()).destroyKey));
token
  .command('record')
  .description('record a root or seal key that only the token knows; the service never uses it')
  .argument('<uuid>', 'its id, as `token status` shows it')
  .action(loaded(async () => (await tokenCommands()).recordInDatabase));
token
  .command('shred')
  .description('destroy all root keys of a shredded tenant; run it on every copy of the token')
  .argument('<tenant>', 'the tenant, by the last part of its name')
  .action(loaded(async () => (await tokenCommands()).shredTenant));
token
  .command('seal-states')
  .description(
    'seal tenants and keys that were made before these were sealed; sealed ones stay unchanged',
  )
  .option('--dry-run', 'show which tenants, and how many keys in which states; change nothing')
  .action(loaded(async () => (await tokenCommands()).sealUnsealedStates));
token
  .command('migrate')
  .description(
    'move all key versions to the token of KEYWARD_NEXT_HSM_*, while services run; run it again to continue',
  )
  .option('--dry-run', 'look at both tokens and show what there is to do; change nothing')
  .option(
    '--leave-behind',
    'move even if some key versions fail verification, and leave those where they are',
  )
  .action(loaded(async () => (await tokenCommands()).moveToNextToken));
const audit = program.command('audit').description('manage the audit log, as the database’s owner');
audit
  .command('resume')
  .description(
    'resume the log as a new generation, although a kept checkpoint has more than the database does',
  )
  .action(loaded(async () => (await auditCommands()).resumeAuditLog));
audit
  .command('public-key')
  .description('print the public key that signs checkpoints, as the HSM token has it, in PEM')
  .action(loaded(async () => (await auditCommands()).printAuditKey));
audit
  .command('drop')
  .description('drop old, exported entries, about 1,000,000 at a time; their hashes stay')
  .requiredOption(
    '--export <folder>',
    'an export of the log that `keyward audit verify` has verified',
  )
  .requiredOption('--older-than-days <days>', 'drop only entries older than this', positiveInteger)
  .action(loaded(async () => (await auditCommands()).dropAuditEntries));

try {
  await program.parseAsync();
} catch (error) {
  const lines = error instanceof Error ? error.message.split('\n') : [String(error)];
  for (const line of lines) process.stderr.write(`keyward-server: ${line}\n`);
  if (process.env['KEYWARD_DEBUG'] && !(await isRefusal(error)))
    process.stderr.write(`${error instanceof Error ? error.stack : ''}\n`);
  process.exit(1);
}

/** An action that loads its command when it is run: no command waits for what others need. */
function loaded<Arguments extends unknown[]>(
  load: () => Promise<(...given: Arguments) => void | Promise<void>>,
): (...given: Arguments) => Promise<void> {
  return async (...given) => (await load())(...given);
}

/** Whether settings or the token were refused, which the message says all of. */
async function isRefusal(error: unknown): Promise<boolean> {
  const { ConfigurationError } = await import('./config.ts');
  const { TokenRefused } = await import('./hsm/agent-pool.ts');
  return error instanceof ConfigurationError || error instanceof TokenRefused;
}

function positiveInteger(text: string): number {
  if (!/^[1-9]\d{0,5}$/.test(text))
    throw new InvalidArgumentError('must be a whole number, 1 or more');
  return Number(text);
}

function outputLost({ code, message }: NodeJS.ErrnoException): void {
  if (code === 'EPIPE') return;
  process.exitCode = 1;
  process.stderr.write(`keyward-server: cannot write the output: ${message}\n`);
}
