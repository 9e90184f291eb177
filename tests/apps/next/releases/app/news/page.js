// Prerendered, and rendered again when it is older than this.
export const revalidate = 2;

export default function News() {
  return <p id="news-build">{`news of ${process.env.NEXT_PUBLIC_TEXT}`}</p>;
}
