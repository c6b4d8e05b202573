/**
 * What this agent was given by whoever started it, read once; and its word to a host of agents.
 *
 * A hosted agent does what serving needs and nothing else: what an operator's command alone may ask
 * for is refused here, in the process that has the PIN. Knows no PKCS#11.
 */
import { writeSync } from 'node:fs';
import { type PinReport, REPORT_DESCRIPTOR, readGiven } from '../agent-given.ts';
import { OPERATIONS, type OperationName } from '../protocol.ts';
import { AgentFailure } from './failure.ts';

/** Who asks for each operation: what serves, or only a command of an operator with the PIN. */
const ASKED_BY: Readonly<Record<OperationName, 'service' | 'operator'>> = {
  start: 'service',
  initializeToken: 'operator',
  createKeyVersion: 'service',
  seal: 'service',
  open: 'service',
  issueDataKey: 'service',
  reseal: 'service',
  sealAll: 'service',
  openAll: 'service',
  resealAll: 'service',
  issueDataKeys: 'service',
  rewrap: 'service',
  forget: 'service',
  forgetEpochs: 'service',
  hold: 'service',
  transfer: 'service',
  sealRecords: 'service',
  verifyRecords: 'service',
  resealRecords: 'service',
  sealPolicyChange: 'service',
  sealRecordChange: 'service',
  nameTenant: 'service',
  decide: 'service',
  createTokenKey: 'service',
  destroyTokenKeys: 'operator',
  measure: 'service',
  random: 'service',
  report: 'service',
  inspectToken: 'operator',
  identifyToken: 'service',
  surveyToken: 'operator',
  probeToken: 'operator',
  openMoveTarget: 'operator',
  openMoveSource: 'operator',
  acceptTransport: 'operator',
  exportKeyVersions: 'operator',
  importKeyVersions: 'operator',
  deriveMaskKey: 'service',
  deriveWriterKey: 'service',
  signCheckpoint: 'service',
  readKeptCheckpoint: 'service',
  readAuditKey: 'service',
  signResumption: 'operator',
  keepCheckpoint: 'service',
};

const GIVEN = readGiven(process.env);

/** The token that this agent opens. */
export const TOKEN = GIVEN.token;

/** Throws `refused` for what only a child of an operator's command may be asked for. */
export function requireAllowed(name: OperationName): void {
  if (GIVEN.hosted === undefined) return;
  if (ASKED_BY[name] === 'operator')
    throw new AgentFailure(
      'refused',
      `cannot do ${name}: only a command of the agents’ own user may ask for it`,
    );
  if (OPERATIONS[name].changesToken && GIVEN.hosted.use !== 'command')
    throw new AgentFailure('refused', `cannot do ${name}: this agent serves`);
}

/** Whether to try the PIN although a try has failed before, of which a host knows better. */
export function mayTryDespiteFailure(asked: boolean): boolean {
  return GIVEN.hosted?.despiteFailedTry ?? asked;
}

/** Tells the host, if there is one, what came of the PIN, before anyone else hears of it. */
export function reportPin(report: PinReport): void {
  if (GIVEN.hosted === undefined) return;
  try {
    writeSync(REPORT_DESCRIPTOR, `${report}\n`);
  } catch {
    // The host has gone.
  }
}
