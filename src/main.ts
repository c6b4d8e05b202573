#!/usr/bin/env node
/**
 * The program `keyward-server`: which commands there are, their arguments, options and help, and
 * how an error ends one. A reader of its output that is gone ends none: what a command has begun,
 * it finishes.
 *
 * Knows nothing of what a command does: that is in `commands/`, a file for each or for each group.
 */
import { Command, InvalidArgumentError } from 'commander';
import { dropAuditEntries, resumeAuditLog } from './commands/audit.ts';
import { reportHealth } from './commands/health.ts';
import { migrateDatabase } from './commands/migrate.ts';
import { RELEASE } from './commands/opening.ts';
import { serve } from './commands/serve.ts';
import {
  destroyKey,
  initToken,
  moveToNextToken,
  recordInDatabase,
  reportToken,
  sealUnsealedStates,
  showToken,
  shredTenant,
} from './commands/token.ts';
import { ConfigurationError } from './config.ts';
import { TokenRefused } from './hsm/agent-pool.ts';

for (const output of [process.stdout, process.stderr]) output.on('error', () => {});

const program = new Command('keyward-server')
  .description('Keyward: key management and encryption in front of a PKCS#11 HSM')
  .version(RELEASE);
program.command('serve').description('serve gRPC until SIGTERM').action(serve);
program
  .command('health')
  .description(
    'ask the server of this container or machine, at KEYWARD_HEALTH_LISTEN, whether it serves',
  )
  .action(reportHealth);
program
  .command('migrate')
  .description('bring the database’s schema to this release')
  .action(migrateDatabase);
const token = program
  .command('token')
  .description('the HSM token, by an operator with the PIN file at hand');
token
  .command('init')
  .description(
    'probe the token, create the environment’s objects in it, record both; doing it again changes nothing',
  )
  .action(initToken);
token
  .command('check')
  .description('log in once, also after a wrong PIN, and report what the token’s objects are')
  .action(reportToken);
token
  .command('status')
  .description(
    'show the token, every object with every attribute, and how much is under each root key',
  )
  .option('--json', 'as the message TokenStatus of the contract, for programs')
  .action(showToken);
token
  .command('destroy-key')
  .alias('destroy-root')
  .description(
    'destroy a root or seal key that was replaced, once nothing is under it and no agent holds it',
  )
  .argument('<uuid>', 'as `token status` and `keyward hsm keys` show it')
  .action(destroyKey);
token
  .command('record')
  .description(
    'record a root or seal key that the token has and the database does not know: it is never used',
  )
  .argument('<uuid>', 'as `token status` shows it')
  .action(recordInDatabase);
token
  .command('shred')
  .description(
    'destroy all root keys of a tenant that was shredded; run it on every copy of the token',
  )
  .argument('<tenant>', 'the last part of its name')
  .action(shredTenant);
token
  .command('seal-states')
  .description(
    'seal how keys stand that were made before states were sealed; what is sealed is left as it is',
  )
  .option('--dry-run', 'say how many keys there are, in which states; change nothing')
  .action(sealUnsealedStates);
token
  .command('migrate')
  .description(
    'bring all key versions to the token of KEYWARD_NEXT_HSM_*, while services run; run again, it goes on',
  )
  .option('--dry-run', 'look at both tokens and say what there is to do; change nothing')
  .option(
    '--leave-behind',
    'move although some key versions do not verify, and leave those where they are',
  )
  .action(moveToNextToken);
const audit = program.command('audit').description('the audit log, by its database’s owner');
audit
  .command('resume')
  .description(
    'have the log go on, as another one, although a checkpoint is kept of more than the database has now',
  )
  .action(resumeAuditLog);
audit
  .command('drop')
  .description(
    'drop entries that are old and exported, some 1,000,000 at a time; their hashes stay',
  )
  .requiredOption('--export <folder>', 'an export of the log, verified by `keyward audit verify`')
  .requiredOption('--older-than-days <days>', 'only entries older than that', positiveInteger)
  .action(dropAuditEntries);

try {
  await program.parseAsync();
} catch (error) {
  const lines = error instanceof Error ? error.message.split('\n') : [String(error)];
  for (const line of lines) process.stderr.write(`keyward-server: ${line}\n`);
  if (
    !(error instanceof ConfigurationError || error instanceof TokenRefused) &&
    process.env['KEYWARD_DEBUG']
  ) {
    process.stderr.write(`${error instanceof Error ? error.stack : ''}\n`);
  }
  process.exit(1);
}

function positiveInteger(text: string): number {
  if (!/^[1-9]\d{0,5}$/.test(text))
    throw new InvalidArgumentError('must be a whole number, 1 or more');
  return Number(text);
}
