import { draftMode } from 'next/headers';

export const revalidate = 60;

/** Rendered at build time, and for each request in draft mode. */
export default async function DraftPage() {
  const { isEnabled } = await draftMode();
  return <h1>{isEnabled ? 'draft:on' : 'draft:off'}</h1>;
}
