//! What `/openapi.json` tells of these calls.

use super::{FRAGMENT, SDP};
use crate::api::{
    openapi::{Operation, Tag, one_of},
    problem::Kind,
};

const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n…";
const ICE: &str =
    "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n…";

pub(in crate::api) fn operations() -> Vec<Operation> {
    let (endpoint, session) = ("/whip/{room}/{stream}", "/whip-session/{session}");
    vec![
        Operation::post(Tag::Whip, endpoint, "publish", "Publish a stream")
            .about("A path of one part is a stream in the room `live`.")
            .query("record", one_of(&["true", "1", "false"]), "Record it")
            .text_body(SDP, OFFER)
            .answers_raw(
                201,
                "The session has begun; the body is the answer to the offer",
                &[SDP],
                Some(OFFER),
            )
            .header("Location", "Path of the session")
            .header("ETag", "Of the ICE session, for `If-Match`")
            .header("Link", "STUN and TURN servers (`rel=\"ice-server\"`)")
            .problems(&[
                Kind::BadName,
                Kind::BadSdp,
                Kind::WrongType,
                Kind::NotAcceptable,
                Kind::NameTaken,
                Kind::UnusableOffer,
                Kind::Busy,
                Kind::ShuttingDown,
                Kind::Failed,
            ]),
        Operation::options(Tag::Whip, endpoint, "publishOptions", "What the endpoint takes")
            .answers_nothing(204, "Nothing but headers, for browsers too (CORS)")
            .header("Accept-Post", SDP),
        Operation::patch(Tag::Whip, session, "trickle", "Tell ICE candidates, or restart ICE")
            .takes_header("If-Match", "The `ETag` of the ICE session; `*` restarts whatever it is")
            .text_body(FRAGMENT, ICE)
            .answers_nothing(204, "The candidates are taken")
            .answers_raw(200, "ICE has restarted; the body is this side's", &[FRAGMENT], Some(ICE))
            .header("ETag", "Of the new ICE session")
            .problems(&[
                Kind::BadFragment,
                Kind::WrongType,
                Kind::NotAcceptable,
                Kind::UnknownSession,
                Kind::NoIceRestart,
                Kind::IfMatchMissing,
                Kind::IfMatchWrong,
                Kind::Failed,
            ]),
        Operation::delete(Tag::Whip, session, "unpublish", "End a session")
            .answers_nothing(200, "It has ended; what was sent before is recorded")
            .problems(&[Kind::UnknownSession, Kind::Failed]),
        Operation::options(Tag::Whip, session, "sessionOptions", "What a session takes")
            .answers_nothing(204, "Nothing but headers, for browsers too (CORS)")
            .header("Accept-Patch", FRAGMENT),
    ]
}
