/**
 * Adds `keyward status`: how the service is doing, on one screen.
 *
 * - What there is to look into comes last, where it is seen; the exit code is 1 if there is any.
 */
import type { Command } from 'commander';
import type { Alert, KeywardClient, ReplicaReport, ServiceStatus } from 'keyward-client';
import { printText } from './files.ts';
import type { Columns, Output } from './output/output.ts';
import { printable } from './output/printable.ts';
import { whenOf } from './output/resources.ts';
import { withClient } from './session.ts';

/** A replica's columns. */
const REPLICA: Columns<ReplicaReport> = {
  REPLICA: ({ name, uid }) => name || uid,
  RELEASE: ({ release }) => release,
  STARTED: ({ startTime }) => startTime?.toISOString() ?? '',
  'LAST SEEN': ({ seenTime }) => seenTime.toISOString(),
  AGENTS: ({ agents, agentsReady }) => `${agentsReady} of ${agents}`,
  STATE: ({ running, problems }) =>
    running ? problems.join('; ') || 'READY' : 'SILENT: it ended, or cannot report itself',
};

/** Adds `status`. */
export function addStatus(program: Command): void {
  program
    .command('status')
    .description(
      'show how the service is doing: replicas, token, database, maintenance, audit log, and ' +
        'what to look into',
    )
    .addHelpText(
      'after',
      '\nThe exit code is 0 if all is well, and 1 if there is something to look into.',
    )
    .action((_options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        const status = await keyward.getServiceStatus();
        const alerts = await activeAlerts(keyward);
        const problems = [...status.problems, ...problemsOf(alerts)];
        const shown = { ...status, problems, alerts };
        await (output.isData ? output.data(shown) : printStatus(output, shown));
        const { length } = problems;
        if (length > 0) throw new Error(`not all is well: ${length} to look into`);
      }),
    );
}

/** The page, with the alerts that are active. */
type Shown = ServiceStatus & { readonly alerts: readonly Alert[] };

async function activeAlerts(keyward: KeywardClient): Promise<Alert[]> {
  const active: Alert[] = [];
  for await (const alert of keyward.alerts({ filter: 'state = ACTIVE' })) active.push(alert);
  return active;
}

/** What of alerts a person should look into: not what is silenced, or is only told. */
function problemsOf(alerts: readonly Alert[]): string[] {
  return alerts
    .filter(({ silenced, severity }) => !silenced && severity !== 'INFO')
    .map(({ severity, alert, subject, message }) => `${severity} ${alert}, ${subject}: ${message}`);
}

async function printStatus(output: Output, status: Shown): Promise<void> {
  const width = 13;
  const lines = Object.entries(factsOf(status)).map(([name, fact]) =>
    printable(`${`${name}:`.padEnd(width)}${fact}`),
  );
  await output.table(REPLICA, status.replicas, `${lines.join('\n')}\n\n`);
  const problems = status.problems.map((problem) => `- ${printable(problem)}\n`);
  if (problems.length > 0) await printText(`\nTo look into:\n${problems.join('')}`);
}

function factsOf(status: Shown): Readonly<Record<string, string>> {
  const { release, replica, environmentUid, database, maintenance, auditLog } = status;
  const failing = status.conditions.filter(({ holds }) => !holds);
  const replicas = status.replicas.filter(({ running: runs }) => runs).length;
  const { checkpointTime, checkpointTreeSize, generation, treeSize, waitingGroups } = auditLog;
  const { paused, runningJobs, staleRows, dueRotations, dueDestructions } = maintenance;
  const witnesses = auditLog.witnesses.map(
    ({ name, cosignedCheckpointTime: time }) =>
      `${name} (cosigned what was signed ${whenOf(time)})`,
  );
  return {
    Service:
      `release ${release}, environment ${environmentUid}, ` + doing(replicas, 'replica', 'run'),
    Answered: `by ${replica}, ${
      failing.length === 0
        ? 'which is ready'
        : `which is not ready: ${failing.map(({ problem }) => problem).join('; ')}`
    }`,
    Token: tokenOf(status),
    Database: `PostgreSQL ${database.version}, schema ${database.migration}`,
    Maintenance:
      `${paused ? 'PAUSED' : 'on'}; ${doing(runningJobs, 'job', 'run')}, ` +
      `${counted(staleRows, 'row')} left; ` +
      `${counted(dueRotations, 'rotation')} and ${counted(dueDestructions, 'destruction')} due`,
    'Audit log':
      `generation ${generation}, ${counted(treeSize, 'entry', 'entries')}, ` +
      `${doing(waitingGroups, 'group', 'wait')}; ` +
      `checkpoint over ${checkpointTreeSize} signed ${whenOf(checkpointTime)}`,
    Witnesses: witnesses.join(', ') || 'none configured',
    Alerts: alertsOf(status.alerts),
  };
}

/** How many there are, and what they do. */
function doing(count: number, thing: string, verb: string): string {
  return `${counted(count, thing)} ${verb}${count === 1 ? 's' : ''}`;
}

function counted(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** Notices do not last: they are counted apart from what is active. */
function alertsOf(alerts: readonly Alert[]): string {
  const notices = alerts.filter(({ severity }) => severity === 'INFO').length;
  const active = `${alerts.length - notices} active`;
  if (notices === 0) return active;
  return `${active}, and ${counted(notices, 'notice')} within the hour`;
}

function tokenOf({ token }: ServiceStatus): string {
  if (token === undefined) return 'cannot be looked at';
  const { label, serialNumber, model, manufacturer, objects, objections } = token;
  const posture =
    objections.length === 0 ? 'as they must be' : counted(objections.length, 'objection');
  const device = `${label}, serial ${serialNumber}, ${model} by ${manufacturer}`;
  return `${device}; ${counted(objects, 'object')}, ${posture}`;
}
