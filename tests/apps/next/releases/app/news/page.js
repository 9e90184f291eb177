// Prerendered, and rendered again when it is older than this. Builds of the same code differ in
// RELEASE alone.
export const revalidate = 2;

export default function News() {
  return <p id="news-build" data-release={process.env.RELEASE}>{`news of ${process.env.NEXT_PUBLIC_TEXT}`}</p>;
}
