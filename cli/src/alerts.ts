/**
 * Adds `keyward alerts …`: shows alerts, tries receivers, and silences alerts.
 */
import { type Command, InvalidArgumentError } from 'commander';
import type { Alert, AlertReceiverTest, AlertSilence } from 'keyward-client';
import { UsageError } from './failures.ts';
import { alertSilenceName } from './names.ts';
import {
  ahead,
  type ChangeOptions,
  changeOf,
  duration,
  given,
  type ListOptions,
  limitOption,
  withFilter,
  withRequestId,
} from './options.ts';
import type { Columns } from './output/output.ts';
import { whenOf } from './output/resources.ts';
import { withClient } from './session.ts';

const ALERT: Columns<Alert> = {
  ALERT: ({ alert }) => alert,
  SUBJECT: ({ subject }) => subject,
  SEVERITY: ({ severity }) => severity,
  STATE: stateOf,
  FIRST: ({ firstTime }) => firstTime.toISOString(),
  LAST: ({ lastTime }) => lastTime.toISOString(),
  COUNT: ({ count }) => String(count),
  UNDELIVERED: ({ deliveryFailures }) =>
    deliveryFailures.map(({ receiver, givenUp }) => `${receiver}${givenUp ? ' !' : ''}`).join(', '),
};

/** What is told for information is over once it was told: nothing of it lasts. */
function stateOf({ state, severity, silenced }: Alert): string {
  const shown = severity === 'INFO' ? 'NOTICE' : state;
  return silenced ? `${shown} (SILENCED)` : shown;
}

const RECEIVER_TEST: Columns<AlertReceiverTest> = {
  RECEIVER: ({ receiver }) => receiver,
  DELIVERED: ({ delivered }) => (delivered ? 'yes' : 'no'),
  ANSWER: ({ answer }) => answer,
};

const SILENCE: Columns<AlertSilence> = {
  NAME: ({ name }) => name,
  ALERT: ({ alert }) => alert,
  SUBJECT: ({ subject }) => subject || 'any',
  UNTIL: ({ expireTime }) => whenOf(expireTime),
  CREATOR: ({ creator }) => creator,
  REASON: ({ reason }) => reason,
};

/** Adds `alerts`. */
export function addAlerts(program: Command): void {
  const alerts = program
    .command('alerts')
    .description('show alerts, try their receivers, and silence alerts; docs/operations.md');
  withFilter(alerts.command('list'), 'state, severity, alert and subject', 'state = ACTIVE')
    .addOption(limitOption())
    .description('list alerts, the newest first: active ones, and those that ended within 30 days')
    .addHelpText(
      'after',
      '\nA NOTICE, of severity INFO, tells of something that is over. UNDELIVERED names ' +
        'receivers; those\nwith ! are tried no more.',
    )
    .action((_options, command: Command) =>
      withClient<ListOptions>(command, (keyward, { output, filter = '' }) =>
        output.all(ALERT, keyward.alerts({ filter }), 'alerts'),
      ),
    );
  addTest(alerts);
  addSilence(alerts);
  alerts
    .command('silences')
    .addOption(limitOption())
    .description('list the silences that are not over')
    .action((_options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        const { alertSilences } = await keyward.listAlertSilences();
        await output.all(SILENCE, alertSilences, 'silences');
      }),
    );
  withRequestId(alerts.command('unsilence <silence>'))
    .description('end a silence: what it held back and still lasts is delivered')
    .action((silence: string, _options, command: Command) =>
      withClient<ChangeOptions>(command, async (keyward, { output, ...options }) => {
        const name = alertSilenceName(silence);
        await keyward.deleteAlertSilence({ name, ...changeOf(options) });
        await output.done(`Ended ${name}.`);
      }),
    );
}

function addTest(alerts: Command): void {
  alerts
    .command('test [receiver]')
    .description('tell one receiver, or every one, of a test, and show what each answered')
    .addHelpText('after', '\nThe exit code is 1 if a receiver did not take it.')
    .action((receiver: string | undefined, _options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        const { tests } = await keyward.testAlert(given({ receiver }));
        await output.all(RECEIVER_TEST, tests, 'receivers');
        if (tests.some(({ delivered }) => !delivered)) process.exitCode = 1;
      }),
    );
}

interface SilenceOptions extends ChangeOptions {
  readonly subject?: string;
  readonly for?: number;
  readonly until?: Date;
  readonly reason?: string;
}

function addSilence(alerts: Command): void {
  withRequestId(alerts.command('silence <alert>'))
    .description('have alerts of one kind not delivered for a time; they are logged all the same')
    .option('--subject <subject>', 'only those about this, exactly as "alerts list" shows it')
    .option('--for <duration>', 'for how long, up to 90d', positive)
    .option('--until <when>', 'until when', ahead)
    .option('--reason <text>', 'why, for other administrators')
    .action((alert: string, _options, command: Command) =>
      withClient<SilenceOptions>(command, async (keyward, { output, ...options }) => {
        const { subject, reason } = options;
        const request = {
          alert,
          expireTime: endOf(options),
          ...given({ subject, reason }),
          ...changeOf(options),
        };
        await output.one(SILENCE, await keyward.silenceAlert(request));
      }),
    );
}

function positive(text: string): number {
  const seconds = duration(text);
  if (seconds === 0) throw new InvalidArgumentError('Write 2h, 30m or 7d.');
  return seconds;
}

function endOf({ for: seconds, until }: SilenceOptions): Date {
  if ((seconds === undefined) === (until === undefined)) {
    throw new UsageError('cannot silence the alert: give either --for or --until');
  }
  return until ?? new Date(Date.now() + (seconds ?? 0) * 1_000);
}
