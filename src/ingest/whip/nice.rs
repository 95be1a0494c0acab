//! ICE restart. `webrtcbin` has none, libnice below it has: three of its functions are called on the agent that
//! webrtcbin uses. The library is loaded already, so it is looked up and not linked.

use super::offer::Credentials;
use gstreamer::glib::{self, ffi::g_free, prelude::*};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

const LIBRARY: &CStr = c"libnice.so.10";
/// webrtcbin has one stream for the bundle, and libnice counts from 1.
const STREAM: c_uint = 1;

type Restart = unsafe extern "C" fn(*mut c_void) -> c_int;
type LocalCredentials =
    unsafe extern "C" fn(*mut c_void, c_uint, *mut *mut c_char, *mut *mut c_char) -> c_int;
type RemoteCredentials = unsafe extern "C" fn(*mut c_void, c_uint, *const c_char, *const c_char) -> c_int;

/// Begins a new ICE generation with the publisher's new credentials, and gives ours. Media goes on over the old path
/// until the new one stands. `None`: this libnice does not do it; the agent is as it was, or of no more use.
/// `agent`: a `NiceAgent`.
pub(super) fn restart(agent: &glib::Object, theirs: &Credentials) -> Option<Credentials> {
    if agent.type_().name() != "NiceAgent" {
        return None;
    }
    let (ufrag, pwd) = (CString::new(&*theirs.ufrag).ok()?, CString::new(&*theirs.pwd).ok()?);
    let agent = agent.as_ptr().cast::<c_void>();
    // SAFETY: the signatures are those of libnice's agent.h, which has kept them since 0.1.6 (soname 10).
    let (restart, local, remote) = unsafe {
        (
            std::mem::transmute::<*mut c_void, Restart>(symbol(c"nice_agent_restart")?),
            std::mem::transmute::<*mut c_void, LocalCredentials>(symbol(
                c"nice_agent_get_local_credentials",
            )?),
            std::mem::transmute::<*mut c_void, RemoteCredentials>(symbol(
                c"nice_agent_set_remote_credentials",
            )?),
        )
    };
    // SAFETY: the agent is a NiceAgent and lives as long as the caller's reference; it has a lock of its own.
    unsafe {
        if restart(agent) == 0 {
            return None;
        }
        let (mut our_ufrag, mut our_pwd) = (std::ptr::null_mut(), std::ptr::null_mut());
        let told = local(agent, STREAM, &mut our_ufrag, &mut our_pwd) != 0;
        let ours = told.then(|| Credentials { ufrag: taken(our_ufrag), pwd: taken(our_pwd) })?;
        (remote(agent, STREAM, ufrag.as_ptr(), pwd.as_ptr()) != 0).then_some(ours)
    }
}

/// A function of the libnice that is loaded; never null.
fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: both strings end with NUL; the handle stays open, as the library does.
    let symbol = unsafe {
        let library = libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY);
        if library.is_null() {
            return None;
        }
        let symbol = libc::dlsym(library, name.as_ptr());
        libc::dlclose(library);
        symbol
    };
    (!symbol.is_null()).then_some(symbol)
}

/// # Safety
/// `text` is a string of GLib's allocator that nobody else frees.
unsafe fn taken(text: *mut c_char) -> String {
    // SAFETY: by the contract of this function.
    unsafe {
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        g_free(text.cast());
        copy
    }
}
