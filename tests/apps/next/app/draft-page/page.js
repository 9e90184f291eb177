import { draftMode } from 'next/headers';

export const revalidate = 60;

/** Made before anybody asks, but for editors. */
export default async function DraftPage() {
  const { isEnabled } = await draftMode();
  return <h1>{isEnabled ? 'draft:on' : 'draft:off'}</h1>;
}
