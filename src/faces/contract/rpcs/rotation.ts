/**
 * RotationService as messages.
 */
import { z } from 'zod';
import { rotationOperations } from '../../../operations/rotation.ts';
import * as field from '../fields.ts';
import type { RotationServiceHandlers } from '../generated/keyward/v1/RotationService.ts';
import { jobMessage, rotationMessage } from '../messages.ts';
import { type RpcsOf, rpc, streamRpc } from '../rpc.ts';

export const rotationService = {
  ListRotations: rpc(rotationOperations.ListRotations, {
    request: z
      .object({ parent: field.keyName, ...field.pageOnly })
      .transform((request) => ({ ...request, conditions: [] })),
    message: ({ items, nextPageToken }, { parent }) => ({
      rotations: items.map((item) => rotationMessage(parent, item)),
      nextPageToken,
    }),
  }),
  CreateRewrapJob: rpc(rotationOperations.CreateRewrapJob, {
    request: z.object({ scope: field.scope, kind: field.jobKind, requestId: field.requestId }),
    message: ({ tenant, job }) => jobMessage(tenant, job),
  }),
  GetRewrapJob: rpc(rotationOperations.GetRewrapJob, {
    request: z.object({ name: field.jobName }),
    message: ({ job, failures }, { name }) => jobMessage(name, job, failures),
  }),
  ListRewrapJobs: rpc(rotationOperations.ListRewrapJobs, {
    request: z
      .object({
        parent: field.tenantName,
        ...field.page({ state: field.valuesOf('RewrapJobState') }),
      })
      .transform(field.filtered),
    message: ({ items, nextPageToken }, { parent }) => ({
      rewrapJobs: items.map((job) => jobMessage(parent, job)),
      nextPageToken,
    }),
  }),
  CancelRewrapJob: rpc(rotationOperations.CancelRewrapJob, {
    request: z.object({ name: field.jobName, requestId: field.requestId }),
    message: (job, { name }) => jobMessage(name, job),
  }),
  WatchRewrapJob: streamRpc(rotationOperations.WatchRewrapJob, {
    request: z.object({ name: field.jobName }),
    message: ({ job, failures, rate }, { name }) => jobMessage(name, job, failures, rate),
  }),
} satisfies RpcsOf<RotationServiceHandlers>;
